// The page: a card for each model, and the table of operations.
const at = id => document.getElementById(id);
const key = at("key");
key.value = sessionStorage.getItem("lepton-key") || "";
const withKey = headers => key.value ? {...headers, authorization: "Bearer " + key.value} : headers;
const base = new URL(".", location.href);

async function asked(path, options = {}) {
  const reply = await fetch(new URL(path, base), {...options, headers: withKey(options.headers || {})});
  const value = await reply.json().catch(() => ({}));
  if (!reply.ok) throw Object.assign(new Error(value.error || `The server answered ${reply.status}.`), {status: reply.status});
  return {value, version: reply.headers.get("lepton-version")};
}

const modelPath = (name, verb = "") => `v1/models/${encodeURIComponent(name)}${verb}`;
const quoted = text => "'" + text.replaceAll("'", "'\\''") + "'";

function commands(name, sent, about) {
  const url = new URL(modelPath(name, "/predict"), base).href, secret = key.value ? ' -H "Authorization: Bearer $LEPTON_API_KEY"' : "";
  const cut = sent.body.length > 1500, file = "request" + (sent.told === "text" ? ".txt" : ".json");
  const given = cut ? "@" + file : sent.body;
  const curl = sent.told === "file" ? `curl -F file=@picture.png${secret} ${url}`
    : sent.told === "text" ? `curl -H 'content-type: text/plain' --data-binary ${quoted(given)}${secret} ${url}`
    : `curl --json ${quoted(given)}${secret} ${url}`;
  const sample = sent.told === "file" ? 'Path("picture.png")' : cut ? `Path("${file}")` : sent.told === "text" ? JSON.stringify(sent.body) : python(sent.value);
  const path = sample.startsWith("Path(") ? "from pathlib import Path\n" : "";
  const code = `${path}from lepton_ai import Client\n\nwith Client("${base.href.replace(/\/$/, "")}") as client:\n    print(client.predict(${JSON.stringify(name)}, ${sample})["predictions"][0])`;
  return make("div", {}, copyable("curl", curl), copyable("Python", code));
}

function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return "[" + value.map(python).join(", ") + "]";
  if (typeof value === "object") return "{" + Object.entries(value).map(([name, item]) => JSON.stringify(name) + ": " + python(item)).join(", ") + "}";
  return JSON.stringify(value);
}

function copyable(what, text) {
  const button = make("button", {type: "button", ariaLabel: `Copy the ${what} line`}, "Copy"), shown = make("pre", {}, text);
  button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(shown); button.textContent = "Selected"; }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return make("div", {className: "line"}, shown, button);
}

function metricChips(metrics) {
  return metrics.map(metric => make("span", {className: "chip", title: metric.meaning},
    metric.name.replaceAll("_", " ") + " ", make("b", {}, metric.unit === "share" ? percent(metric.value) : short(+metric.value.toPrecision(3))),
    metric.unit && metric.unit !== "share" ? " " + metric.unit : ""));
}

async function build(card, name) {
  const inside = make("div", {className: "inside"}, make("p", {className: "quiet"}, "Loading …"));
  card.append(inside);
  let about;
  try { about = await card.about(); }
  catch (error) { inside.replaceChildren(make("p", {className: "bad", role: "alert"}, error.message)); card.built = false; return; }
  const input = inputFor(name, about), out = make("div", {className: "answer", ariaLive: "polite"}, make("p", {className: "quiet"}, "The answer appears here."));
  const send = make("button", {className: "main", type: "submit"}, "Predict"), example = make("button", {type: "button", hidden: !about.example}, "Try the example");
  const form = make("form", {ariaLabel: `Ask ${name}`}, input.node, make("div", {className: "buttons"}, send, example, make("span", {className: "quiet small"}, "Ctrl + Enter")));
  const predict = async () => {
    send.disabled = example.disabled = true;
    try {
      const sent = input.request(), began = performance.now();
      const {value, version} = await asked(modelPath(name, "/predict"), {method: "POST", body: sent.body, headers: {"content-type": sent.type}});
      const took = performance.now() - began, answer = value.predictions[0];
      out.replaceChildren(drawn(answer, {picture: sent.picture, request: sent.value, codec: about.input}),
        ...(answer.embedding ? [whoIsIt(name, sent)] : []), wasItRight(name, about, value) ?? "", make("p", {className: "told"}, `${took.toFixed(took < 10 ? 1 : 0)} ms, there and back · version ${version || value.version}`),
        make("details", {className: "more"}, make("summary", {}, "As JSON"), make("pre", {}, JSON.stringify(value, null, 2))),
        make("details", {className: "more"}, make("summary", {}, "Use from curl or Python"), commands(name, sent, about)));
    } catch (error) { out.replaceChildren(make("p", {className: "bad", role: "alert"}, error.message)); }
    send.disabled = example.disabled = false;
  };
  form.addEventListener("submit", event => { event.preventDefault(); predict(); });
  form.addEventListener("keydown", event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); });
  card.paste = input.paste;
  card.example = () => { if (about.example) { input.fill(about.example); predict(); } };
  example.addEventListener("click", card.example);
  const labels = about.labels.length ? make("details", {className: "more"}, make("summary", {}, `${about.labels.length} labels`),
    make("div", {className: "chips"}, ...about.labels.map(label => make("span", {className: "chip"}, label)))) : null;
  inside.replaceChildren(make("p", {}, ...prose(about.description || "")),
    make("div", {}, make("p", {className: "quiet small"}, "On the test split:"), make("div", {className: "chips"}, ...metricChips(about.metrics))),
    ...(labels ? [labels] : []), make("div", {className: "two"}, form, out),
    ...(about.media_type.startsWith("image/") ? [videoTool(name)] : []), ...(about.gallery ? [peopleTool(name)] : []));
  if (about.example && !about.media_type.startsWith("image/")) input.fill(about.example);
}

// For embeddings: who of the people enrolled with the server the sample is most alike.
function whoIsIt(name, sent) {
  const button = make("button", {type: "button"}, "Identify"), told = make("div", {ariaLive: "polite"});
  button.addEventListener("click", async () => {
    try {
      const {value} = await asked(modelPath(name, "/identify"), {method: "POST", body: sent.body, headers: {"content-type": sent.type}});
      const pairs = value.candidates.map(found => [found.id, found.similarity]);
      told.replaceChildren(pairs.length ? bars(pairs, {figure: value => value.toFixed(3)}) : make("p", {className: "told"}, "Nobody is enrolled."),
        make("p", {className: "told"}, value.id === null ? `Nobody reaches the threshold, ${value.threshold.toFixed(3)}.` : `${value.id}: more alike than the threshold, ${value.threshold.toFixed(3)}.`));
    } catch (error) { told.replaceChildren(make("p", {className: "bad", role: "alert"}, error.message)); }
  });
  return make("div", {className: "answer"}, make("div", {className: "buttons"}, button), told);
}

function cardOf(model) {
  const end = model.ready ? `version ${model.version}` : "not ready", title = make("strong", {}, model.name);
  const card = make("details", {className: "card", id: `model-${model.name}`}, make("summary", {}, title,
    make("span", {className: "quiet"}, `${model.name} · ${(model.task || "").replaceAll("_", " ")}`), make("span", {className: "quiet end"}, end)));
  let about = null;
  card.about = () => about ??= asked(modelPath(model.name, "/example")).then(({value}) => { title.textContent = value.title; return value; });
  card.addEventListener("toggle", () => {
    if (!card.open || card.built) return;
    card.built = true;
    card.ready = model.ready ? build(card, model.name) : card.append(make("div", {className: "inside"}, make("p", {className: "bad"}, model.reason || "Not ready.")));
  });
  return card;
}

async function showModels() {
  let models;
  try { models = (await asked("v1/models")).value.models; }
  catch (error) {
    at("state").textContent = error.status === 401 || error.status === 403 ? "This server requires an API key: enter it above." : error.message;
    return;
  }
  at("state").textContent = models.length ? "" : "No model is deployed yet.";
  const cards = models.map(cardOf);
  at("models").replaceChildren(...cards);
  for (const card of cards) if (models.length <= 40) card.about().catch(() => {});
  const [wanted, verb] = decodeURIComponent(location.hash.slice(1)).split("/");
  const card = at(`model-${wanted}`) || (models.length < 4 ? at("models").firstElementChild : null);
  if (!card) return;
  card.open = true;
  if (wanted) card.scrollIntoView();
  for (let waited = 0; verb === "example" && !card.example && waited < 100; waited++) await new Promise(done => setTimeout(done, 50));
  if (verb === "example" && card.example) card.example();
}

function prose(text) {
  const parts = text.split(/``([^`]+)``|`([^`]+)`/g), out = [];
  for (let i = 0; i < parts.length; i += 3) {
    out.push(parts[i]);
    const code = parts[i + 1] ?? parts[i + 2];
    if (code !== undefined) out.push(make("code", {}, code));
  }
  return out;
}

async function showOperations() {
  const api = (await asked("openapi.json")).value;
  for (const [path, methods] of Object.entries(api.paths))
    for (const [method, operation] of Object.entries(methods))
      at("operations").append(make("tr", {}, make("td", {}, method.toUpperCase()), make("td", {}, make("code", {}, path)),
        make("td", {}, ...prose(operation.description || operation.summary || ""))));
}

key.form.addEventListener("submit", event => { event.preventDefault(); key.blur(); });
key.addEventListener("change", () => { sessionStorage.setItem("lepton-key", key.value); showModels(); });
document.addEventListener("paste", event => {
  const open = [...document.querySelectorAll("details.card[open]")].find(card => card.paste && (card.contains(document.activeElement) || document.activeElement === document.body));
  if (open && event.clipboardData) open.paste(event.clipboardData.items);
});
showModels();
showOperations();
