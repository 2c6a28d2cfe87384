// One input that fits what the model takes. Each gives: node, fill(example), and request() -> {body, type, told, picture, value}.
function pictureInput(name) {
  const file = make("input", {type: "file", accept: "image/*", id: `file-${name}`});
  const hint = make("span", {className: "quiet"}, "Drop or paste an image, or click to choose one");
  const preview = make("img", {alt: "Selected image", hidden: true});
  const drop = make("label", {className: "drop"}, file, hint, preview);
  let chosen = null, url = null;
  const choose = blob => {
    chosen = blob;
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(blob);
    preview.src = url;
    preview.hidden = false;
    hint.hidden = true;
  };
  preview.addEventListener("load", () => preview.classList.toggle("tiny", preview.naturalWidth < 96));
  file.addEventListener("change", () => file.files[0] && choose(file.files[0]));
  for (const kind of ["dragover", "dragleave", "drop"]) drop.addEventListener(kind, event => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
  });
  return {
    node: drop,
    paste: items => { const found = [...items].find(item => item.type.startsWith("image/")); if (found) choose(found.getAsFile()); return Boolean(found); },
    fill: example => choose(new Blob([Uint8Array.from(atob(example.base64), sign => sign.charCodeAt(0))], {type: example.media_type})),
    request: () => {
      if (!chosen) throw new Error("Choose an image first, or try the example.");
      return {body: chosen, type: chosen.type || "application/octet-stream", told: "file", picture: url};
    },
  };
}

function textInput(name, about) {
  const area = make("textarea", {id: `text-${name}`, required: true, dir: "auto", placeholder: "Enter or paste text"});
  return {
    node: make("label", {}, about, area),
    fill: example => { area.value = example.text; },
    request: () => ({body: area.value, type: "text/plain", told: "text"}),
  };
}

function rowsInput(name, field) {
  const area = make("textarea", {id: `rows-${name}`, className: "mono", required: true, spellcheck: false, rows: 12, wrap: "off"});
  const columns = field.columns.map(column => `${column.name} (${column.type})`).join(", ");
  return {
    node: make("label", {}, `Rows in time order, one per line, as JSON: ${columns}`, area),
    fill: example => { area.value = JSON.parse(example.text)[field.name].map(row => JSON.stringify(row)).join("\n"); },
    request: () => {
      const rows = area.value.split("\n").filter(text => text.trim()).map((text, i) => {
        try { return JSON.parse(text); } catch (error) { throw new Error(`Line ${i + 1} is not valid JSON: ${error.message}`); }
      });
      return jsonRequest({[field.name]: rows});
    },
  };
}

const jsonRequest = value => ({body: JSON.stringify(value), type: "application/json", told: "json", value});

function control(name, field, many) {
  const id = `${name}-${field.name}`, required = field.required;
  if (field.type === "bool") return make("select", {id, required}, ...[["", ""], ["true", "yes"], ["false", "no"]].map(([value, text]) => make("option", {value}, text)));
  if (field.type === "text" && field.choices.length && field.choices.length <= 12)
    return make("select", {id, required}, make("option", {value: ""}, ""), ...field.choices.map(choice => make("option", {value: choice}, choice)));
  if (field.type === "int" || field.type === "float") return make("input", {id, required, type: "number", step: field.type === "int" ? 1 : "any"});
  if (field.type === "text" && !field.choices.length && !many) return make("textarea", {id, required});
  const input = make("input", {id, required, placeholder: field.type === "time" ? "2026-01-31T13:00" : field.type === "list" ? "several, parted by commas" : ""});
  if (field.choices.length) input.setAttribute("list", `${id}-known`);
  return input;
}

function fieldsInput(name, fields) {
  const grid = make("div", {className: "fields"}), inputs = new Map();
  for (const field of fields) {
    const input = control(name, field, fields.length > 4);
    inputs.set(field, input);
    const known = input.getAttribute("list") ? make("datalist", {id: input.getAttribute("list")}, ...field.choices.map(value => make("option", {value}))) : null;
    grid.append(make("label", {}, field.name + (field.required ? " *" : ""), input, known));
  }
  const read = (field, text) => {
    if (text === "") return null;
    if (field.type === "int" || field.type === "float") return Number(text);
    if (field.type === "bool") return text === "true";
    return field.type === "list" ? text.split(",").map(part => part.trim()).filter(Boolean) : text;
  };
  return {
    node: grid,
    fill: example => {
      const value = JSON.parse(example.text);
      for (const [field, input] of inputs) {
        const given = value[field.name], text = given === null || given === undefined ? "" : Array.isArray(given) ? given.join(", ") : String(given);
        if (input.tagName === "SELECT" && ![...input.options].some(option => option.value === text)) input.add(new Option(text, text));
        input.value = text;
      }
    },
    request: () => jsonRequest(Object.fromEntries([...inputs].map(([field, input]) => [field.name, read(field, input.value)]).filter(([, value]) => value !== null))),
  };
}

function jsonInput(name) {
  const area = make("textarea", {id: `json-${name}`, className: "mono", required: true, spellcheck: false});
  return {
    node: make("label", {}, "Request as JSON", area),
    fill: example => { area.value = JSON.stringify(JSON.parse(example.text), null, 2); },
    request: () => jsonRequest(JSON.parse(area.value)),
  };
}

function inputFor(name, about) {
  const fields = about.fields, only = fields.length === 1 ? fields[0] : null;
  if (about.media_type.startsWith("image/")) return pictureInput(name);
  if (about.media_type.startsWith("text/") && only) return textInput(name, "Text");
  if (only && only.type === "rows") return rowsInput(name, only);
  return fields.length ? fieldsInput(name, fields) : jsonInput(name);
}
