// The form to try a model: built from its metadata, for any number of inputs of any datatype.
const FILLED = 64; // elements of an input up to which its values are written out
const SHOWN = 120; // values of an output
// The folder of the page. Of several slashes at the beginning one is left: two would be followed by the name of a host.
const base = location.pathname.replace(/[^/]*$/, "").replace(/^\/+/, "/");
const isInteger = (datatype) => /^U?INT/.test(datatype);
const isLong = (datatype) => /^U?INT64$/.test(datatype);

// The value of a JSON text, with integers of 16 digits and more as texts: a script's number has 53 bits.
const parseExactly = (text) => JSON.parse(text.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g, (word) => (/^-?\d{16,}$/.test(word) ? `"${word}"` : word)));

const example = (datatype, number) => {
  if (datatype === "BYTES") return JSON.stringify(`text ${number + 1}`);
  if (datatype === "BOOL") return number % 2 ? "false" : "true";
  return isInteger(datatype) ? String(number % 10) : String(Math.round(100 * Math.abs(Math.sin(number + 1))) / 100);
};
const randomValue = (datatype) => {
  if (datatype === "BOOL") return Math.random() < 0.5 ? "true" : "false";
  if (datatype === "BYTES") return JSON.stringify(Math.random().toString(36).slice(2));
  return isInteger(datatype) ? String(Math.floor(10 * Math.random())) : Math.random().toFixed(4);
};
const zeroValue = (datatype) => ({ BOOL: "false", BYTES: '""' }[datatype] ?? "0");

const isListOfTexts = (text) => {
  try {
    const value = JSON.parse(text);
    return Array.isArray(value) && value.flat(Infinity).every((item) => typeof item === "string");
  } catch {
    return false;
  }
};

// The text of a JSON list: the numbers stay as they are written, because a 64-bit integer is more than a script's number.
const listOf = (text, datatype) => {
  const trimmed = text.trim();
  if (datatype === "BYTES") return isListOfTexts(trimmed) ? trimmed : JSON.stringify(text.replace(/\n$/, "").split("\n"));
  if (trimmed.startsWith("[")) { JSON.parse(trimmed); return trimmed; }
  const list = `[${trimmed.split(/[\s,]+/).filter(Boolean).join(",")}]`;
  JSON.parse(list);
  return list;
};

const makeInput = (input, number, changed) => {
  const id = `input-${number}`;
  const free = [];
  const shape = make("div", { className: "shape" }, ...input.shape.map((dim, axis) => {
    if (dim >= 0) return make("span", { className: "dim" }, String(dim));
    const field = make("input", { type: "number", min: 0, step: 1, value: axis === 0 ? 1 : 8, className: "dim", "aria-label": `size of dimension ${axis + 1} of ${input.name}` });
    free.push(field);
    return field;
  }));
  const shapeNow = () => { let next = 0; return input.shape.map((dim) => (dim >= 0 ? dim : Math.max(0, Math.trunc(Number(free[next++].value) || 0)))); };
  const size = () => shapeNow().reduce((product, dim) => product * dim, 1);
  const mode = make("select", { id: `${id}-mode` }, ...[["own", "as written"], ["random", "random"], ["zeros", "zeros"]].map(([value, text]) => make("option", { value }, text)));
  const data = make("textarea", { id: `${id}-data`, rows: input.datatype === "BYTES" ? 3 : 2, spellcheck: false, "aria-describedby": `${id}-hint` });
  const hint = make("p", { className: "soft small", id: `${id}-hint` });
  let touched = false;
  const fill = () => {
    const count = size();
    if (!touched) {
      mode.value = count <= FILLED ? "own" : "random";
      if (count <= FILLED) {
        const values = Array.from({ length: count }, (_, place) => example(input.datatype, place));
        data.value = input.datatype === "BYTES" ? values.map((value) => JSON.parse(value)).join("\n") : values.join(", ");
      }
    }
    data.hidden = mode.value !== "own";
    const form = input.datatype === "BYTES" ? "one text per line, or a JSON list" : "comma-separated numbers, or a JSON list";
    hint.textContent = `${words.count(count)} ${count === 1 ? "value" : "values"}${mode.value === "own" ? `: ${form}` : ", generated when the request is sent"}`;
    changed();
  };
  data.addEventListener("input", () => { touched = true; changed(); });
  mode.addEventListener("change", () => { touched = true; fill(); });
  free.forEach((field) => field.addEventListener("input", fill));
  const element = make("fieldset", {}, make("legend", {}, make("code", {}, input.name)),
    make("div", { className: "row" }, make("span", { className: "soft" }, input.datatype), shape, make("label", { htmlFor: mode.id }, "Values"), mode),
    make("label", { htmlFor: data.id, className: "sr" }, `Values of ${input.name}`), data, hint);
  fill();
  const text = () => {
    if (mode.value === "own") return listOf(data.value, input.datatype);
    return `[${Array.from({ length: size() }, () => (mode.value === "zeros" ? zeroValue(input.datatype) : randomValue(input.datatype))).join(",")}]`;
  };
  return {
    element,
    isWritten: () => mode.value === "own",
    json: () => {
      try {
        return `{"name":${JSON.stringify(input.name)},"datatype":"${input.datatype}","shape":${JSON.stringify(shapeNow())},"data":${text()}}`;
      } catch (error) {
        data.focus();
        throw new Error(`The values of ${input.name} are not a list: ${error.message}`);
      }
    },
  };
};

const makeOutput = (output, classes) => {
  const flat = (output.data ?? []).flat(Infinity);
  const long = isLong(output.datatype);
  const exact = (item) => (typeof item === "string" && !long && output.datatype !== "BYTES" ? Number(item) : item);
  const value = (item) => (typeof item === "number" && !Number.isInteger(item) ? Number(item.toPrecision(7)) : item);
  const shown = (item) => (long ? String(item) : JSON.stringify(value(exact(item))));
  const rest = flat.length > SHOWN ? `\n… and ${words.count(flat.length - SHOWN)} more` : "";
  const last = output.shape[output.shape.length - 1];
  const scores = flat.map((item) => (long ? BigInt(item) : exact(item)));
  const best = classes && flat.length === last ? scores.reduce((top, score, place) => (score > scores[top] ? place : top), 0) : -1;
  return make("div", { className: "output" },
    make("h3", {}, make("code", {}, output.name), " ", make("small", {}, `${output.datatype} [${output.shape.join(", ")}]`)),
    make("pre", { tabIndex: 0, "aria-label": `Values of ${output.name}` }, make("code", {}, flat.slice(0, SHOWN).map(shown).join(", ") + rest)),
    best >= 0 ? make("p", { className: "soft" }, `Highest: ${classes[best]}`) : null);
};

// Put the form of a model into an element. `ask` fetches a path of the server; `header` is what curl needs for a token.
const buildForm = async (form, path, ask, header) => {
  form.dataset.path = path;
  const said = make("p", { className: "answer", role: "status" });
  const outputs = make("div", { className: "outputs" });
  const wrong = make("p", { className: "error", role: "alert" });
  form.replaceChildren(make("p", { className: "soft" }, "Loading the model’s metadata"));
  const found = await ask(path);
  const metadata = await found.json();
  if (form.dataset.path !== path) return; // another model was chosen meanwhile
  if (found.status >= 500) throw new Error(`${found.status}: ${metadata.error}`);
  if (!found.ok) {
    form.replaceChildren(make("p", { className: "error" }, `${found.status}: ${metadata.error}`));
    return;
  }
  const command = make("pre", { tabIndex: 0 }, make("code", {}));
  const same = make("details", {}, make("summary", {}, "The same request with curl"), command);
  let inputs = [];
  const body = () => `{"inputs":[${inputs.map((input) => input.json()).join(",")}]}`;
  const tellCommand = () => {
    if (inputs.length !== metadata.inputs.length) return;
    let text = "Random and zero values are generated here: enter your own values to include them in the command.";
    if (inputs.every((input) => input.isWritten())) {
      try {
        const url = `${location.origin}${base}${path}/infer`.replaceAll("'", "%27"); // which encodeURIComponent leaves
        text = `curl${header()} '${url}' -d '${body().replaceAll("'", "'\\''")}'`;
      } catch { text = "The values are not complete."; }
    }
    command.firstChild.textContent = text;
  };
  inputs = metadata.inputs.map((input, number) => makeInput(input, number, tellCommand));
  tellCommand();
  const send = make("button", { type: "submit", className: "primary" }, "Send");
  form.replaceChildren(...inputs.map((input) => input.element), make("div", { className: "row" }, send), wrong, said, outputs, same);
  const classes = Object.fromEntries(metadata.outputs.map((output) => [output.name, output.parameters?.classes]));
  form.onsubmit = async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    said.replaceChildren();
    outputs.replaceChildren();
    let request;
    try { request = body(); } catch (error) { wrong.textContent = error.message; return; }
    send.disabled = true;
    const began = performance.now();
    try {
      const answer = await ask(`${path}/infer`, { method: "POST", body: request, headers: { "Content-Type": "application/json" } });
      const text = await answer.text();
      const took = words.time(1e3 * (performance.now() - began));
      const value = parseExactly(text);
      if (!answer.ok) { wrong.textContent = `${answer.status}: ${value.error}`; return; }
      said.replaceChildren(make("span", { className: "badge good" }, String(answer.status)), `answered in ${took}, measured in this browser`);
      outputs.replaceChildren(...value.outputs.map((output) => makeOutput(output, classes[output.name])));
    } catch (error) {
      wrong.textContent = `No answer: ${error.message}`;
    } finally {
      send.disabled = false;
    }
  };
};
