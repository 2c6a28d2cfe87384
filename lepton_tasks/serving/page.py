"""The page at ``/docs``: the operations of ``/openapi.json`` and a form to try a model; nothing from elsewhere."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Lepton serving</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
  h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
  code, pre { font: 13px/1.45 ui-monospace, monospace; }
  pre { background: #f4f6f8; padding: .8rem; overflow: auto; border-radius: 6px; }
  table { border-collapse: collapse; width: 100%; }
  td { padding: .35rem .6rem .35rem 0; border-top: 1px solid #e3e7eb; vertical-align: top; }
  .method { font-weight: 600; width: 4.5rem; } form > * { margin-right: .6rem; }
  @media (prefers-color-scheme: dark) { body { background: #15191e; color: #e4e8ec; } pre { background: #20262d; }
    td { border-color: #2d343c; } a { color: #7ab7ff; } }
</style>
</head>
<body>
<h1>Lepton serving</h1>
<p>Machine-readable: <a href="openapi.json">openapi.json</a>. Metrics: <a href="metrics">metrics</a>.</p>
<h2>Try a model</h2>
<form id="try">
  <label>Model <select id="model"></select></label>
  <label>File <input id="file" type="file"></label>
  <label>or text, or JSON <textarea id="text" rows="3" cols="60"></textarea></label>
  <button>Predict</button>
</form>
<pre id="answer">No answer yet.</pre>
<h2>Operations</h2>
<table id="operations"></table>
<script>
  const at = id => document.getElementById(id);
  const cell = (row, text, kind) => {
    const made = row.insertCell();
    if (kind === "method") { made.className = "method"; made.textContent = text; return; }
    const inner = document.createElement(kind || "span");
    inner.textContent = text;
    made.append(inner);
  };
  fetch("openapi.json").then(reply => reply.json()).then(api => {
    for (const [path, methods] of Object.entries(api.paths))
      for (const [method, operation] of Object.entries(methods)) {
        const row = at("operations").insertRow();
        cell(row, method.toUpperCase(), "method");
        cell(row, path, "code");
        cell(row, operation.description || operation.summary || "");
      }
  });
  fetch("v1/models").then(reply => reply.json()).then(list => {
    for (const model of list.models) {
      const state = model.ready ? " (version " + model.version + ")" : " (not ready)";
      at("model").add(new Option(model.name + state, model.name));
    }
    if (!list.models.length) at("answer").textContent = "No model is deployed yet.";
  });
  at("try").addEventListener("submit", async event => {
    event.preventDefault();
    const file = at("file").files[0];
    const body = file || at("text").value;
    const url = "v1/models/" + encodeURIComponent(at("model").value) + "/predict";
    const reply = await fetch(url, {method: "POST", body, headers: {"content-type": "application/octet-stream"}});
    at("answer").textContent = reply.status + " " + JSON.stringify(await reply.json(), null, 2);
  });
</script>
</body>
</html>
"""
