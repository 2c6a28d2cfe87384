// Beside one answer: whether it was right, videos, and the people that a server knows.
const problem = error => make("p", {className: "bad", role: "alert"}, error.message);
const posted = (name, verb, body, headers = {}) => asked(modelPath(name, verb), {method: "POST", body, headers});

// "Is this correct?": what is told is compared by version (lepton ab).
function wasItRight(name, about, reply) {
  const answer = reply.predictions[0], only = Object.values(answer);
  const said = answer.label ?? (only.length === 1 && typeof only[0] === "number" ? only[0] : null);
  if (said === null || !reply.id) return null;
  const row = make("div", {className: "buttons small"}), known = typeof said === "number" ? [] : about.labels;
  const tell = async label => {
    try {
      await posted(name, "/feedback", JSON.stringify({id: reply.id, label}), {"content-type": "application/json"});
      row.replaceChildren(make("span", {className: "quiet"}, "Thank you, recorded."));
    } catch (error) { row.replaceChildren(problem(error)); }
  };
  const other = known.length ? make("select", {ariaLabel: "Correct answer"}, make("option", {value: ""}, "no, it is …"), ...known.filter(label => label !== said).map(label => make("option", {value: label}, label)))
    : make("input", {ariaLabel: "Correct answer", placeholder: "no, it is …", type: typeof said === "number" ? "number" : "text", step: "any"});
  other.className = "short";
  other.addEventListener("change", () => { if (other.value !== "") tell(typeof said === "number" ? Number(other.value) : other.value); });
  const yes = make("button", {type: "button"}, "yes");
  yes.addEventListener("click", () => tell(said));
  row.append(make("span", {className: "quiet"}, "Is this correct?"), yes, other);
  return row;
}

const clock = seconds => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;

function inWords(answer) {
  if ("is_anomaly" in answer) return [answer.is_anomaly ? "unusual" : "nothing unusual", answer.score];
  if (answer.counts) return [Object.entries(answer.counts).map(([label, count]) => `${count} ${label}`).join(", ") || "nothing found", null];
  if (answer.label !== undefined) return [answer.label, answer.probability ?? null];
  return [answer.embedding ? "a face" : JSON.stringify(answer), null];
}

// The frames of a video, as they are answered; equal ones in a row are one line, and a click goes there.
function videoTool(name) {
  const id = `video-${name}`, file = make("input", {type: "file", accept: "video/*", id, required: true});
  const fps = make("input", {type: "number", min: "0.1", max: "30", step: "any", value: "1", id: `${id}-fps`, className: "short"});
  const go = make("button", {type: "submit", className: "main"}, "Look at it"), stop = make("button", {type: "button", hidden: true}, "Stop");
  const film = make("video", {controls: true, muted: true, hidden: true, ariaLabel: "Selected video"}), rows = make("ol", {className: "frames"}), told = make("p", {className: "told", role: "status"});
  const form = make("form", {ariaLabel: `A video for ${name}`}, make("label", {}, "Video", file), make("label", {}, "Frames per second", fps), make("div", {className: "buttons"}, go, stop));
  let ends = null, address = null;
  file.addEventListener("change", () => {
    if (address) URL.revokeObjectURL(address);
    address = file.files[0] ? URL.createObjectURL(file.files[0]) : null;
    film.hidden = !address;
    if (address) film.src = address;
  });
  film.addEventListener("error", () => { film.hidden = true; });  // the server reads more kinds than browsers do
  stop.addEventListener("click", () => ends && ends.abort());
  form.addEventListener("submit", async event => {
    event.preventDefault();
    ends = new AbortController();
    go.disabled = true; stop.hidden = false; rows.replaceChildren(); told.textContent = "Waiting for the first frame …";
    let last = null, frames = 0;
    const show = ({frame, time_s: time, answer, error}) => {
      const [words, figure] = answer ? inWords(answer) : [error, null];
      told.textContent = `${++frames} frames answered, up to ${clock(time)} (frame ${frame})`;
      if (last && last.words === words) { last.until.textContent = ` – ${clock(time)}`; last.figures.push(figure); }
      else {
        const jump = make("button", {type: "button", className: "link"}, clock(time)), until = make("span", {className: "quiet"}), value = make("span", {className: "quiet"});
        jump.addEventListener("click", () => { film.currentTime = time; });
        rows.append(make("li", {}, jump, until, " ", make("b", {}, words), " ", value));
        last = {words, until, value, figures: [figure]};
      }
      const known = last.figures.filter(one => one !== null);
      if (known.length) last.value.textContent = short(known.reduce((sum, one) => sum + one, 0) / known.length);
    };
    try {
      const reply = await fetch(new URL(modelPath(name, `/video?fps=${Number(fps.value)}`), base), {method: "POST", body: file.files[0], headers: withKey({"content-type": "application/octet-stream"}), signal: ends.signal});
      if (!reply.ok) throw new Error((await reply.json().catch(() => ({}))).error || `The server answered ${reply.status}.`);
      let text = "";
      for (const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();;) {
        const {done, value} = await reader.read();
        if (done) break;
        text += value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          const kind = /^event: (.*)$/m.exec(event)?.[1], data = JSON.parse(/^data: (.*)$/m.exec(event)?.[1] ?? "null");
          if (kind === "frame") show(data);
          if (kind === "summary") told.textContent = `${data.answered} frames answered in ${short(data.seconds)} s.`;
          if (kind === "error") throw new Error(data.error);
        }
      }
    } catch (error) { if (error.name === "AbortError") told.textContent += " · stopped"; else rows.append(problem(error)); }
    go.disabled = false; stop.hidden = true;
  });
  return make("details", {className: "more"}, make("summary", {}, "Video, frame by frame"), make("div", {className: "two"}, form, make("div", {className: "answer"}, film, told, rows)));
}

// Who is known: enrolled, listed and forgotten with the server's token; asked for by anybody who may ask the model.
function peopleTool(name) {
  const token = make("input", {type: "password", autocomplete: "off", id: `token-${name}`, placeholder: "admin.token of the server"});
  const who = make("input", {id: `who-${name}`, required: true, maxLength: 200, placeholder: "a name or number of your own"});
  const files = make("input", {type: "file", accept: "image/*", multiple: true, required: true, id: `faces-${name}`});
  const list = make("div", {className: "chips"}), told = make("div", {ariaLive: "polite"});
  const admin = () => ({authorization: "Bearer " + token.value.trim()});
  const query = () => "?id=" + encodeURIComponent(who.value);
  const body = () => { const form = new FormData(); for (const file of files.files) form.append("file", file); return form; };
  const say = (...parts) => told.replaceChildren(make("p", {className: "told"}, ...parts));
  const withToken = async (verb, options) => {
    const reply = await fetch(new URL(modelPath(name, verb), base), {...options, headers: admin()}), value = await reply.json().catch(() => ({}));
    if (!reply.ok) throw new Error(value.error || `The server answered ${reply.status}.`);
    return value;
  };
  const refresh = async () => {
    const {known} = await withToken("/gallery");
    list.replaceChildren(...Object.entries(known).map(([id, count]) => {
      const forget = make("button", {type: "button", className: "link", ariaLabel: `Forget ${id}`, title: `Forget ${id}`}, "×");
      forget.addEventListener("click", () => trying(async () => { await withToken("/gallery?id=" + encodeURIComponent(id), {method: "DELETE"}); say(id, " is forgotten."); await refresh(); }));
      return make("span", {className: "chip"}, id, " ", make("b", {}, String(count)), " ", forget);
    }));
    if (!Object.keys(known).length) list.replaceChildren(make("span", {className: "quiet small"}, "Nobody is enrolled yet."));
  };
  const trying = async act => { try { await act(); } catch (error) { told.replaceChildren(problem(error)); } };
  const enrol = make("button", {type: "submit", className: "main"}, "Enrol"), verify = make("button", {type: "button"}, "Is it them?"), look = make("button", {type: "button"}, "Who is enrolled?");
  const form = make("form", {ariaLabel: `People that ${name} knows`}, make("label", {}, "Who", who), make("label", {}, "Pictures", files), make("label", {}, "Server token", token), make("div", {className: "buttons"}, enrol, verify, look));
  form.addEventListener("submit", event => { event.preventDefault(); trying(async () => {
    const value = await withToken("/enrol" + query(), {method: "POST", body: body()});
    say(make("b", {}, value.id), ` is known by ${value.samples} pictures now.`);
    await refresh();
  }); });
  verify.addEventListener("click", () => trying(async () => {
    if (!form.reportValidity()) return;
    const {value} = await posted(name, "/verify" + query(), body());
    say(make("b", {}, value.same ? `Yes, that is ${value.id ?? who.value}.` : `No, that is not ${value.id ?? who.value}.`), ` Similarity ${value.similarity.toFixed(3)}, threshold ${value.threshold.toFixed(3)}.`);
  }));
  look.addEventListener("click", () => trying(refresh));
  return make("details", {className: "more"}, make("summary", {}, "People: enrol and verify"), make("div", {className: "two"}, form, make("div", {className: "answer"}, told, list)));
}
