// The page: reads the stream of records, keeps two minutes of them, and shows one model beside the whole server.
(() => {
  const STAGES = ["receive", "queue", "dispatch", "compute", "deliver", "encode", "write"];
  const MARKS = ["head", "ready", "formed", "began", "ended", "handed", "encoded", "written"];
  const SLOW_KEPT = 8;
  const SLOW_S = 60;
  const HIDDEN_MS = 5 * 60 * 1000; // a tab that nobody sees for so long is not a watcher
  const RETRY_MS = [500, 1000, 2000, 5000];
  const FORM_MS = 2000; // until a form that could not be made is tried again
  const KEY = "tailcut-token";
  const by = (id) => document.getElementById(id);
  const keyOf = (model) => `${model.name}\n${model.version}`;

  const theme = () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  };
  by("theme").addEventListener("click", theme);

  const isToken = (text) => /^[\x21-\x7e]+$/.test(text); // what a header can carry, and the server's file may contain
  let token = sessionStorage.getItem(KEY);
  if (token !== null && !isToken(token)) {
    token = null;
    sessionStorage.removeItem(KEY);
  }
  const ask = (path, options = {}) => fetch(base + path, {
    ...options, cache: "no-store", credentials: "same-origin",
    headers: { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) },
  });

  // What is known.
  let about = null;
  let views = []; // of the last two minutes
  let chosen = null;
  let formOf = null;
  let slow = new Map(); // of each model, its slowest requests

  const modelOf = (view) => view.models.find((model) => keyOf(model) === chosen);
  const percentiles = () => document.querySelector("input[name=window]:checked").value;

  const charts = [
    makeChart({ title: "Requests", about: "answered per second", format: words.count, series: [{ name: "requests/s", tone: "c1", kind: "area", read: (point) => point.model?.rate }] }),
    makeChart({ title: "Latency", about: "complete request to the model’s answer", format: words.time, log: true, series: [
      ...[["p50", "c1"], ["p95", "c3"], ["p99", "c2"]].map(([name, tone]) => ({ name, tone, kind: "line", read: (point) => point.model?.[percentiles()][`${name}_us`] })),
    ] }),
    makeChart({ title: "Waiting", about: "at each update", format: words.count, series: [
      { name: "rows queued", tone: "c3", kind: "area", read: (point) => point.model?.queued_rows },
      { name: "batches computing", tone: "c2", kind: "line", read: (point) => point.model?.computing },
    ] }),
    makeChart({ title: "Batches", about: "mean since the update before", format: words.count, series: [{ name: "rows per batch", tone: "c4", kind: "line", read: (point) => point.model?.batch_rows }] }),
  ];
  by("charts").append(...charts.map((chart) => chart.figure));
  const sizes = make("div", { className: "sizes", role: "list" });
  const sizesWords = make("p", { className: "soft small" });
  charts[3].figure.insertBefore(make("div", {}, sizesWords, sizes), charts[3].figure.querySelector("details"));
  document.querySelectorAll("input[name=window]").forEach((field) => field.addEventListener("change", () => show()));

  const fact = (term, value, note, tone) => make("div", {}, make("dt", {}, term), make("dd", { className: tone ?? "" }, value), make("dd", { className: "note" }, note));
  const latencyWords = (latency, seconds, value) => {
    if (!latency.requests) return "no requests";
    const told = `${words.count(latency.requests)} ${latency.requests === 1 ? "request" : "requests"} in ${seconds}\u00a0s`;
    return value === null ? `unknown: ${told} are too few` : `of ${told}`;
  };
  const whole = (seconds) => `${Math.max(1, Math.round(seconds))}\u00a0s`;
  const span = (seconds) => (Math.round(seconds) <= 1 ? "second" : whole(seconds)); // with many models, a view is of several
  const lost = (model) => model.failed + model.refused + model.expired;

  const showFacts = (view, model) => {
    const all = view.models;
    const sum = (read) => all.reduce((total, one) => total + read(one), 0);
    const missing = sum(lost);
    const oldest = Math.max(0, ...all.map((one) => one.oldest_us));
    const window_s = Math.round(view.window_s);
    const latency = model?.recent ?? { requests: 0, p99_us: null, p50_us: null, within_slo: null };
    const within = latency.within_slo === null ? null : fact(`Within ${words.time(1e3 * about.slo_ms)}`, words.share(latency.within_slo), latencyWords(latency, window_s), latency.within_slo < 0.99 ? "warn" : "");
    const memory = view.processes.every((one) => one.memory_bytes === null) ? null : view.processes.reduce((total, one) => total + one.memory_bytes, 0);
    settle(by("facts"), ...[
      fact("Requests per second", words.count(view.rate), `answered, last ${span(view.seconds)}, all models`),
      fact("p50", words.time(latency.p50_us), latencyWords(latency, window_s, latency.p50_us)),
      fact("p99", words.time(latency.p99_us), latencyWords(latency, window_s, latency.p99_us)),
      within,
      fact("Waiting", words.count(sum((one) => one.queued)), oldest ? `requests now, the oldest for ${words.time(oldest)}` : "requests now"),
      fact("Not answered", words.count(missing), `failed, refused or expired, last ${span(view.seconds)}`, missing ? "bad" : ""),
      fact("Engines busy", sum((one) => one.busy).toFixed(2), `at a time, mean of the last ${span(view.seconds)}`),
      fact("Memory", words.bytes(memory), view.processes.length > 1 ? `resident, ${view.processes.length} processes` : "resident"),
    ].filter(Boolean));
    const notes = [
      view.throttled_ms ? `The CPU quota throttled the server for ${words.time(1e3 * view.throttled_ms)} of the last ${span(view.seconds)}.` : "",
      view.ready ? "" : "The server is not ready: it is starting or draining.",
      view.models_left_out ? `${view.models_left_out} further models had fewer requests, and are not shown.` : "",
    ].filter(Boolean);
    if (by("notes").textContent !== notes.join(" ")) by("notes").textContent = notes.join(" ");
  };

  const showWindows = (view) => {
    for (const [name, seconds] of [["recent", view.window_s], ["second", view.seconds]]) settle(by(`over-${name}`), whole(seconds));
  };

  const showModels = (view) => {
    by("models").hidden = view.models.length < 2;
    if (view.models.length < 2) return;
    const order = new Map((about?.models ?? []).map((model, number) => [keyOf(model), number]));
    const rows = [...view.models].sort((a, b) => (order.get(keyOf(a)) ?? 1e9) - (order.get(keyOf(b)) ?? 1e9));
    fillTable(by("models-table"), ["model", "requests/s", "p50", "p95", "p99", "waiting", "rows per batch", "not answered"], rows.map((model) => {
      const name = about && about.models.filter((one) => one.name === model.name).length > 1 ? `${model.name} version ${model.version}` : model.name;
      const button = make("button", { type: "button", className: "link", "aria-pressed": String(keyOf(model) === chosen), "data-model": keyOf(model) }, name);
      const figures = model[percentiles()];
      return [button, words.count(model.rate), ...["p50_us", "p95_us", "p99_us"].map((field) => (figures.requests ? words.time(figures[field]) : "no requests")), words.count(model.queued), words.count(model.batch_rows), words.count(lost(model))];
    }));
  };
  by("models-table").addEventListener("click", (event) => { if (event.target.dataset.model) choose(event.target.dataset.model); });

  const showSizes = () => {
    const counts = new Map();
    const last = views.slice(-10);
    charts[3].figure.hidden = Boolean(modelOf(views[views.length - 1])?.steps.length); // each step has batches of its own
    settle(sizesWords, `Batches of the last ${whole(last.reduce((sum, view) => sum + view.seconds, 0))} by their rows, the most frequent`);
    for (const view of last) {
      for (const [rows, batches] of Object.entries(modelOf(view)?.batch_sizes ?? {})) counts.set(rows, (counts.get(rows) ?? 0) + batches);
    }
    const all = [...counts].sort((a, b) => a[0] - b[0]);
    const total = all.reduce((sum, [, batches]) => sum + batches, 0);
    const most = [...all].sort((a, b) => b[1] - a[1]).slice(0, 6).sort((a, b) => a[0] - b[0]);
    settle(sizes, ...(most.length ? most.map(([rows, batches]) => {
      const bar = make("i", { "aria-hidden": "true" });
      bar.style.width = `${(100 * batches) / total}%`;
      return make("div", { role: "listitem" }, make("span", {}, `${rows}`, make("span", { className: "sr" }, Number(rows) === 1 ? " row" : " rows")), make("span", { className: "bar c4" }, bar), make("span", {}, words.share(batches / total)));
    }) : [make("p", { className: "soft small" }, "none")]));
  };

  const keepSlow = (view) => {
    for (const model of view.models) {
      if (!model.slow.length) continue;
      const kept = [...(slow.get(keyOf(model)) ?? []), ...model.slow];
      slow.set(keyOf(model), kept.filter((one) => view.clock_s - one.start_ns / 1e9 <= SLOW_S).sort((a, b) => b.marks_us.written - a.marks_us.written).slice(0, SLOW_KEPT));
    }
  };
  const showSlow = (view, model) => {
    const kept = (slow.get(chosen) ?? []).filter((one) => view.clock_s - one.start_ns / 1e9 <= SLOW_S);
    by("slow-words").textContent = kept.length ? `Of the last ${SLOW_S} s, from the first byte to the written answer, by stage. Of the last ${span(view.seconds)}, ${words.count(model?.looked_at ?? 0)} of ${words.count(model?.second.requests ?? 0)} requests were looked at.` : `No requests in the last ${SLOW_S} s.`;
    by("slow").hidden = !kept.length;
    if (!kept.length) return;
    const legend = make("ul", { className: "legend", "aria-hidden": "true" }, ...STAGES.map((stage, number) => make("li", {}, make("span", { className: `swatch c${number + 1}` }), stage)));
    const most = kept[0].marks_us.written;
    const spent = (one, number) => one.marks_us[MARKS[number + 1]] - one.marks_us[MARKS[number]];
    const rows = kept.map((one) => {
      const strip = make("div", { className: "strip", "aria-hidden": "true" });
      STAGES.forEach((stage, number) => {
        const part = make("i", { className: `part c${number + 1}`, title: `${stage} ${words.time(spent(one, number))}` });
        part.style.left = `${(100 * one.marks_us[MARKS[number]]) / most}%`;
        part.style.width = `${(100 * spent(one, number)) / most}%`;
        strip.append(part);
      });
      const longest = STAGES.map((_, number) => number).reduce((best, number) => (spent(one, number) > spent(one, best) ? number : best), 0);
      const notes = [words.ago(view.clock_s - one.start_ns / 1e9), `${one.rows === 1 ? "1 row" : `${one.rows} rows`} in a batch of ${one.batch_rows}`, view.processes.length > 1 ? `process ${one.process}` : "", one.coincided.length ? `with ${one.coincided.map((kind) => kind.replaceAll("_", " ")).join(", ")}` : ""];
      return make("div", { className: "strip-row" },
        make("p", { className: "strip-name" }, make("b", {}, words.time(one.marks_us.written)), " ", make("span", { className: "soft" }, `${STAGES[longest]} ${words.time(spent(one, longest))} of it`)),
        make("p", { className: "strip-figures" }, ...notes.filter(Boolean).map((note) => make("span", {}, note))), strip);
    });
    const table = make("table", {});
    fillTable(table, ["", "total", ...STAGES], kept.map((one) => [words.ago(view.clock_s - one.start_ns / 1e9), words.time(one.marks_us.written), ...STAGES.map((_, number) => words.time(spent(one, number)))]));
    settle(by("slow"), legend, make("details", {}, make("summary", {}, "As a table"), make("div", { className: "scroll" }, table)), ...rows);
  };

  const showSteps = (model) => {
    const steps = model?.steps ?? [];
    by("steps").hidden = !steps.length;
    if (steps.length) fillTable(by("steps-table"), ["step", "requests/s", "mean wait", "mean time", "waiting", "failed", "restarts"], steps.map((step) => [step.name, words.count(step.rate), words.time(step.queue_us), words.time(step.compute_us), words.count(step.queued), words.count(step.failed), words.count(step.restarts)]));
  };

  const showServer = (view, model) => {
    fillTable(by("processes"), ["process", "requests/s", "connections", "CPUs used", "memory"], view.processes.map((one) => [one.worker === null ? `${one.pid}` : `${one.pid}, worker ${one.worker}`, words.count(one.rate), words.count(one.connections), one.cpus === null ? words.unknown : one.cpus.toFixed(2), words.bytes(one.memory_bytes)]));
    const known = about?.models.find((one) => keyOf(one) === chosen);
    const workers = Math.max(1, view.processes.length);
    const replies = [...Object.entries(view.replies), ...Object.entries(view.grpc_replies).map(([code, count]) => [`gRPC ${code}`, count])];
    settle(by("memory"), ...[
      known?.rows ? fact("Rows in use", `${words.count(model?.rows_in_use ?? 0)} of ${words.count(known.rows * workers)}`, `now, ${words.bytes(known.memory_bytes * workers)} for requests and answers`) : null,
      fact("Connections", words.count(view.connections), `now, ${words.count(view.fast_path)} on the fast path`),
      fact("Buffers", words.bytes(view.buffered_bytes), "now, bodies and responses in progress"),
      fact("Answers", replies.length ? replies.map(([status, count]) => `${words.count(count)} × ${status}`).join(", ") : "none", `last ${span(view.seconds)}, all models`),
    ].filter(Boolean));
  };

  const showSettings = () => {
    const model = about?.models.find((one) => keyOf(one) === chosen);
    if (!model) { by("settings-words").textContent = "The settings of this model are not part of the stream: GET v2/models/NAME/config has them."; by("settings").replaceChildren(); return; }
    by("settings-words").textContent = model.changed.length ? `${model.name} is served with ${model.changed.length} settings that differ from the defaults.` : `${model.name} is served with the defaults.`;
    const table = (pairs) => { const element = make("table", { className: "plain" }); element.append(make("tbody", {}, ...pairs.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value))))); return element; };
    const columns = make("div", { className: "columns" });
    if (model.changed.length) columns.append(make("div", {}, make("h3", {}, "Changed from the default"), table(model.changed.map((name) => [name, model.settings[name]]))));
    if (Object.keys(model.facts).length) columns.append(make("div", {}, make("h3", {}, "Decided at the start"), table(Object.entries(model.facts).map(([name, value]) => [name.replaceAll("_", " "), value]))));
    by("settings").replaceChildren(columns, make("details", {}, make("summary", {}, "All settings"), table(Object.entries(model.settings))));
  };

  const showFindings = (record) => {
    const rank = { fault: 0, warning: 1, note: 2, ok: 3 };
    const items = [...record.checks].sort((a, b) => rank[a.severity] - rank[b.severity]);
    by("findings").replaceChildren(...items.map((check) => make("li", { className: check.severity }, make("span", { className: `badge ${check.severity}` }, check.severity), make("b", {}, check.name.replaceAll("_", " ")), make("span", { className: "soft" }, check.finding), check.remedy && check.severity !== "ok" ? make("code", {}, check.remedy) : null)));
  };

  const choose = (key) => {
    chosen = key;
    const [name, version] = key.split("\n");
    by("model-title").textContent = name;
    by("model-title").append(" ", make("small", {}, `version ${version}`));
    const path = `v2/models/${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}`;
    by("try-path").textContent = `${base}${path}/infer`;
    if (formOf !== key) {
      formOf = key;
      buildForm(by("try"), path, ask, () => (token ? ' -H "Authorization: Bearer $TOKEN"' : "")).catch((error) => {
        if (formOf !== key) return;
        by("try").replaceChildren(make("p", { className: "error" }, `The form could not be made: ${error.message}`));
        formOf = null; // made again with the next connection, or soon on this one
        setTimeout(() => { if (stream && !formOf && chosen === key) choose(key); }, FORM_MS);
      });
    }
    showSettings();
    show();
  };

  const show = () => {
    const view = views[views.length - 1];
    if (!view || !about) return;
    const model = modelOf(view);
    showFacts(view, model);
    showWindows(view);
    showModels(view);
    const points = views.map((one) => ({ clock: one.clock_s, seconds: one.seconds, model: modelOf(one) }));
    const rule = about.slo_ms ? { value: 1e3 * about.slo_ms, text: `--slo ${words.time(1e3 * about.slo_ms)}` } : null;
    charts.forEach((chart, number) => chart.update(points, number === 1 ? rule : null));
    showSizes();
    showSlow(view, model);
    showSteps(model);
    showServer(view, model);
    document.documentElement.dataset.views = String(views.length);
  };

  const take = { // a record of each kind
    about: (record) => {
      if (JSON.stringify(record.models) !== JSON.stringify(about?.models)) formOf = null;
      about = record;
      if (!record.models.some((model) => keyOf(model) === chosen)) chosen = record.models.length ? keyOf(record.models[0]) : null;
      if (chosen) choose(chosen);
      by("figures").hidden = false;
    },
    findings: showFindings,
    view: (record) => {
      if (views.length && record.clock_s <= views[views.length - 1].clock_s) views = []; // another machine
      views = [...views, record].filter((one) => record.clock_s - one.clock_s <= SPAN_S + 2);
      keepSlow(record);
      say("watching", record.ready ? "Serving" : "Not ready");
      show();
    },
    end: (record) => say("waiting", { stopping: "The server is stopping", renewed: "The server is being reloaded" }[record.reason] ?? "The server could not collect its figures: see its log"),
  };

  // The connection.
  let stream = null;
  let tries = 0;
  let timer = 0;
  let paused = false;
  const say = (state, text) => {
    by("state").dataset.state = state;
    if (by("state-text").textContent !== text) by("state-text").textContent = text;
  };
  const wantToken = (text) => {
    say("waiting", "A token is required");
    by("figures").hidden = true;
    by("token-form").hidden = false;
    by("token-error").textContent = text;
    by("token").focus();
  };
  const events = async (body, handle) => {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (text + value).split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").find((line) => line.startsWith("data: "));
        if (data) handle(JSON.parse(data.slice(6)));
      }
    }
  };
  const connect = async () => {
    clearTimeout(timer);
    if (stream || paused) return;
    const mine = stream = new AbortController();
    let pause_ms = RETRY_MS[Math.min(tries, RETRY_MS.length - 1)];
    try {
      const answer = await ask("live", { signal: mine.signal });
      if (answer.status === 401) {
        const had = token;
        token = null;
        sessionStorage.removeItem(KEY);
        wantToken(had ? "The server did not accept this token." : "");
        return;
      }
      if (!answer.ok) {
        const value = await answer.json().catch(() => ({}));
        say("waiting", `The server answers ${answer.status}: ${value.error ?? answer.statusText}`);
        pause_ms = Math.max(pause_ms, 1e3 * Number(answer.headers.get("Retry-After") ?? 0));
      } else {
        by("token-form").hidden = true;
        tries = 0;
        await events(answer.body, (record) => { if (stream === mine) take[record.event]?.(record); });
        pause_ms = RETRY_MS[0];
        if (by("state").dataset.state === "watching") say("waiting", "The connection was closed: reconnecting");
      }
    } catch {
      if (mine.signal.aborted) return;
      say("waiting", "The server does not answer: retrying");
    } finally {
      if (stream === mine) stream = null;
    }
    tries += 1;
    timer = setTimeout(connect, pause_ms);
  };
  const disconnect = () => {
    clearTimeout(timer);
    stream?.abort();
    stream = null;
  };
  by("pause").addEventListener("click", () => {
    paused = !paused;
    by("pause").setAttribute("aria-pressed", String(paused));
    by("pause").textContent = paused ? "Go on" : "Pause";
    if (paused) { disconnect(); say("paused", "Paused"); } else { say("connecting", "Connecting"); connect(); }
  });
  by("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = by("token").value.trim();
    if (!isToken(typed)) {
      by("token-error").textContent = "A token has ASCII characters only, and no spaces: this text has others, which may be invisible.";
      return;
    }
    token = typed;
    sessionStorage.setItem(KEY, token);
    by("token").value = "";
    by("token-error").textContent = "";
    connect();
  });
  let away = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(away);
    if (document.hidden) away = setTimeout(disconnect, HIDDEN_MS);
    else if (!stream && by("token-form").hidden) connect();
  });
  connect();
})();
