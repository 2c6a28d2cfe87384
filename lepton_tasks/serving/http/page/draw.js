// Answers as people read them: what an answer holds decides how it is drawn.
const SPACE = (() => { const t = document.createElement("template"); t.innerHTML = "<svg></svg>"; return t.content.firstChild.namespaceURI; })();

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false || value === null) continue;
    if (name in made && name !== "list" && name !== "form") made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const short = value => Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toPrecision(3) : String(+value.toPrecision(5));
const percent = share => (share >= .9995 && share < 1 ? ">99.9" : share > 0 && share < .0005 ? "<0.1" : (100 * share).toFixed(1)) + " %";

function bars(pairs, {shown = 8, figure = percent} = {}) {
  const grid = make("div", {className: "bars"});
  const add = (target, [name, share], best) => {
    const fill = make("i");
    fill.style.width = 100 * Math.max(0, Math.min(1, share)) + "%";
    target.append(make("span", {className: best ? "name best" : "name", dir: "auto"}, name),
      make("div", {className: best ? "bar best" : "bar"}, fill), make("span", {className: "figure"}, figure(share)));
  };
  pairs.slice(0, shown).forEach((pair, i) => add(grid, pair, i === 0));
  if (pairs.length <= shown) return grid;
  const rest = make("div", {className: "bars"});
  pairs.slice(shown).forEach(pair => add(rest, pair, false));
  const more = make("details", {className: "more"}, make("summary", {}, `${pairs.length - shown} more`), rest);
  return make("div", {}, grid, more);
}

// Which part of the picture the model saw, in shares of it: left, top, width, height (more than all of it where it was padded).
function seen(width, height, codec) {
  if (!codec || !codec.resize || codec.resize === "stretch") return [0, 0, 1, 1];
  const across = codec.width / width, down = codec.height / height;
  const scale = codec.resize === "crop" ? Math.max(across, down) : Math.min(across, down);
  const part = [codec.width / scale / width, codec.height / scale / height];
  return [(1 - part[0]) / 2, (1 - part[1]) / 2, ...part];
}

function overlay(url, boxes, codec) {
  const image = make("img", {src: url, alt: "Image with detected objects"});
  const layer = svg("svg", {viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true"});
  const holder = make("div", {className: "picture"}, image, layer);
  image.addEventListener("load", () => {
    image.classList.toggle("tiny", image.naturalWidth < 96);
    const [left, top, width, height] = seen(image.naturalWidth, image.naturalHeight, codec);
    for (const {box, hue, title} of boxes) {
      const drawn = svg("rect", {class: `box hue-${hue % 6}`, x: left + box.xmin * width, y: top + box.ymin * height,
        width: Math.max(0, box.xmax - box.xmin) * width, height: Math.max(0, box.ymax - box.ymin) * height});
      drawn.append(svg("title", {}, title));
      layer.append(drawn);
    }
  });
  return holder;
}

function detections(answer, context) {
  const labels = Object.keys(answer.counts || {});
  const hue = label => Math.max(0, labels.indexOf(label));
  const chips = make("div", {className: "chips"}, ...labels.map(label =>
    make("span", {className: `chip dot hue-${hue(label) % 6}`}, make("b", {}, String(answer.counts[label])), " " + label)));
  const boxes = answer.detections.map(found => ({box: found.box, hue: hue(found.label), title: `${found.label} ${percent(found.score)}`}));
  const list = make("ol", {}, ...answer.detections.map(found => make("li", {}, found.label + " ", make("span", {className: "quiet"}, percent(found.score)))));
  const more = answer.detections.length ? make("details", {className: "more"}, make("summary", {}, "Scores"), list) : make("p", {}, "No objects found.");
  return make("div", {className: "answer"}, chips, context.picture ? overlay(context.picture, boxes, context.codec) : null, more);
}

function line(past, next, unit) {
  const all = [...past, ...next], width = 600, height = 190, pad = 44;
  const low = Math.min(...all), high = Math.max(...all), span = high - low || 1;
  const x = i => pad + (width - pad - 8) * i / Math.max(1, all.length - 1), y = v => 10 + (height - 36) * (1 - (v - low) / span);
  const path = (values, first) => values.map((v, i) => `${i ? "L" : "M"}${x(first + i).toFixed(1)},${y(v).toFixed(1)}`).join("");
  const chart = svg("svg", {class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Forecast of ${next.length} values, from ${short(next[0])} to ${short(next[next.length - 1])}`});
  for (const value of [low, low + span / 2, high]) {
    chart.append(svg("line", {class: "axis", x1: pad, x2: width - 8, y1: y(value), y2: y(value)}));
    chart.append(svg("text", {x: pad - 6, y: y(value) + 4, "text-anchor": "end"}, short(value)));
  }
  const start = past.length ? past.length - 1 : 0;
  if (past.length) chart.append(svg("path", {class: "past", d: path(past, 0)}), svg("line", {class: "now", x1: x(start), x2: x(start), y1: 6, y2: height - 26}));
  chart.append(svg("path", {class: "next", d: path(past.length ? [past[start], ...next] : next, start)}));
  chart.append(svg("text", {x: x(start) + 4, y: height - 8}, past.length ? "now" : ""), svg("text", {x: width - 8, y: height - 8, "text-anchor": "end"}, `+${next.length} × ${unit}`));
  return chart;
}

function duration(seconds) {
  const unit = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]].find(([size]) => seconds % size === 0 && seconds >= size) || [1, "second"];
  const count = seconds / unit[0];
  return count === 1 ? `1 ${unit[1]}` : `${count} ${unit[1]}s`;
}

function forecast(answer, context) {
  const rows = context.request && Array.isArray(context.request.rows) ? context.request.rows : [];
  const past = rows.map(row => row[answer.target]).filter(value => typeof value === "number").slice(-3 * answer.forecast.length);
  const unit = answer.step_seconds ? duration(answer.step_seconds) : "step";
  const told = `${answer.target || "Value"}: ${short(answer.forecast[0])} one step (${unit}) ahead, ${short(answer.forecast[answer.forecast.length - 1])} at the end`;
  return make("div", {className: "answer"}, line(past, answer.forecast, unit), make("p", {className: "told"}, told));
}

function anomaly(answer, context) {
  const share = answer.threshold > 0 ? Math.min(1, answer.score / (2 * answer.threshold)) : 0;
  const fill = make("i");
  fill.style.width = 100 * share + "%";
  const parts = [make("p", {className: "big"}, answer.is_anomaly ? "Unusual" : "No anomaly"),
    make("div", {className: "bar best"}, fill),
    make("p", {className: "told"}, `score ${short(answer.score)}, unusual from ${short(answer.threshold)} on (the middle of the bar)`)];
  const where = answer.where || {};
  if ("xmin" in where && context.picture && context.codec) {
    const {width, height} = context.codec;
    const box = {xmin: where.xmin / width, xmax: where.xmax / width, ymin: where.ymin / height, ymax: where.ymax / height};
    parts.push(overlay(context.picture, [{box, hue: answer.is_anomaly ? 1 : 0, title: "the largest error"}], context.codec));
  } else if ("first_step" in where) parts.push(make("p", {className: "told"}, `least expected: steps ${where.first_step} to ${where.last_step} of the window, counted from 0`));
  return make("div", {className: "answer"}, ...parts);
}

function embedding(answer) {
  const values = answer.embedding, most = Math.max(...values.map(Math.abs)) || 1, width = 600;
  const chart = svg("svg", {class: "chart", viewBox: `0 0 ${width} 80`, role: "img", "aria-label": `${values.length} numbers`});
  values.forEach((value, i) => chart.append(svg("rect", {x: i * width / values.length, width: Math.max(.5, width / values.length - .5),
    y: value > 0 ? 40 - 38 * value / most : 40, height: 38 * Math.abs(value) / most})));
  return make("div", {className: "answer"}, chart, make("p", {className: "told"}, `An embedding of ${values.length} numbers. Enrol, verify and identify compare embeddings by cosine similarity.`));
}

function items(answer) {
  const list = make("ol", {}, ...answer.items.map(found =>
    make("li", {}, (found.title || found.item) + " ", make("span", {className: "quiet"}, `${found.title ? found.item + " · " : ""}score ${short(found.score)}`))));
  return answer.items.length ? list : make("p", {}, "Nothing to recommend.");
}

function continuation(answer) {
  const next = answer.next.map(word => [word.end ? "(end of text)" : word.text || "(nothing)", word.probability]);
  return make("div", {className: "answer"}, make("h3", {}, "Next"), bars(next),
    answer.continuation ? make("p", {className: "made", dir: "auto"}, "… " + answer.continuation) : null,
    make("p", {className: "told"}, `perplexity of the text: ${short(answer.perplexity)}`));
}

function made(answer) {
  const sure = "probability" in answer ? `mean probability of a token ${percent(answer.probability)}` : "";
  return make("div", {className: "answer"}, make("p", {className: "made", dir: "auto"}, answer.text || "(an empty text)"),
    make("p", {className: "told"}, [sure, answer.complete === false ? "cut off at its longest" : ""].filter(Boolean).join(" · ")));
}

function picture(answer) {
  return make("div", {className: "picture"}, make("img", {className: "tiny", alt: "Generated image", src: "data:image/png;base64," + answer.image}));
}

function drawn(answer, context) {
  if (answer.probabilities) {
    const pairs = Object.entries(answer.probabilities).sort((one, other) => other[1] - one[1]);
    return make("div", {className: "answer"}, make("p", {className: "big"}, answer.label), bars(pairs));
  }
  if (answer.detections) return detections(answer, context);
  if (answer.forecast) return forecast(answer, context);
  if (answer.embedding) return embedding(answer);
  if (answer.items) return items(answer);
  if (answer.next) return continuation(answer);
  if ("is_anomaly" in answer) return anomaly(answer, context);
  if (answer.image) return picture(answer);
  if (typeof answer.text === "string") return made(answer);
  const figures = Object.entries(answer);
  if (figures.length && figures.every(([, value]) => typeof value !== "object")) return make("div", {className: "answer"}, ...figures.map(([name, value]) =>
    make("p", {}, make("span", {className: "quiet"}, name + " "), make("span", {className: "big"}, typeof value === "number" ? short(value) : String(value)))));
  return make("pre", {}, JSON.stringify(answer, null, 2));
}
