"use strict";
// Builds elements, writes figures, and draws charts over the last two minutes.
const make = (tag, fields = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name in element) element[name] = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};
const draw = (tag, fields = {}) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(fields)) element.setAttribute(name, value);
  return element;
};

const words = {
  unknown: "–",
  count: (value) => (value === null || value === undefined ? words.unknown : value >= 100 || Number.isInteger(value)
    ? Math.round(value).toLocaleString("en") : value.toLocaleString("en", { maximumSignificantDigits: value < 1 ? 2 : 3 })),
  time: (us) => {
    if (us === null || us === undefined) return words.unknown;
    const [size, unit] = us >= 1e6 ? [1e6, "s"] : us >= 1e3 ? [1e3, "ms"] : [1, "µs"];
    const value = us / size;
    return `${value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 2 : value < 100 ? 1 : 0 })} ${unit}`;
  },
  bytes: (value) => {
    if (value === null || value === undefined) return words.unknown;
    const power = value < 1 ? 0 : Math.min(4, Math.floor(Math.log2(value) / 10));
    const size = value / 1024 ** power;
    return `${size.toLocaleString("en", { maximumFractionDigits: power && size < 100 ? 1 : 0 })} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
  },
  share: (value) => (value === null || value === undefined ? words.unknown : `${(100 * value).toLocaleString("en", { maximumFractionDigits: value > 0.99 && value < 1 ? 2 : 1 })} %`),
  ago: (seconds) => (seconds < 0.5 ? "now" : `${Math.round(seconds)} s ago`),
};

// Make an element's children like others, and touch only what differs: focus, selection and open details stay.
const settle = (parent, ...children) => {
  children.forEach((child, number) => {
    const old = parent.childNodes[number];
    const node = typeof child === "string" ? document.createTextNode(child) : child;
    if (!old) parent.append(node);
    else if (old.nodeName !== node.nodeName) old.replaceWith(node);
    else if (old.nodeType === Node.TEXT_NODE) { if (old.data !== node.data) old.data = node.data; } else if (!old.isEqualNode(node)) {
      for (const { name, value } of node.attributes) {
        if (name === "style") old.style.cssText = node.style.cssText;
        else if (old.getAttribute(name) !== value) old.setAttribute(name, value);
      }
      for (const name of old.getAttributeNames()) if (!node.hasAttribute(name) && name !== "open") old.removeAttribute(name);
      settle(old, ...node.childNodes);
    }
  });
  while (parent.childNodes.length > children.length) parent.lastChild.remove();
};

// A table, row by row; the first cell of a row is its head.
const fillTable = (table, heads, rows) => {
  settle(table,
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, number) => (number ? make("td", {}, cell) : make("th", { scope: "row" }, cell)))))),
  );
};

const SPAN_S = 120;
const TABLE_ROWS = 12;
const makeChart = ({ title, about, series, format, log = false }) => {
  const heading = make("h3", {}, title, " ", make("small", {}, about));
  const legend = make("ul", { className: "legend" });
  const values = series.map((one) => {
    const value = make("b", {}, words.unknown);
    legend.append(make("li", {}, make("span", { className: `swatch ${one.tone}` }), `${one.name} `, value));
    return value;
  });
  const picture = draw("svg", { "aria-hidden": "true" });
  const tip = make("div", { className: "tip", hidden: true });
  const spoken = make("p", { className: "sr", "aria-live": "polite" });
  const table = make("table", {});
  const details = make("details", {}, make("summary", {}, "As a table"), make("div", { className: "scroll" }, table));
  const figure = make("figure", { className: "chart", tabIndex: 0, role: "group", "aria-roledescription": "chart",
    "aria-label": `${title}, ${about}, over the last two minutes. Arrow keys read the values.` },
  make("figcaption", {}, heading, legend), picture, tip, spoken, details);
  let points = [];
  let rule = null;
  let at = null; // the clock of the point that is shown
  let frame = null;

  const read = (one, point) => {
    const value = one.read(point);
    return value === null || value === undefined || (log && value <= 0) ? null : value;
  };
  const ticksOf = (low, high) => {
    if (log) {
      const found = [];
      for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade += 1) {
        for (const step of high / low > 60 ? [1] : [1, 2, 5]) found.push(step * 10 ** decade);
      }
      return found.filter((value) => value >= low && value <= high);
    }
    const unit = 10 ** Math.floor(Math.log10(high / 3));
    const step = [1, 2, 5, 10].map((factor) => unit * factor).find((one) => high / one <= 4);
    return Array.from({ length: Math.floor(high / step + 1e-9) + 1 }, (_, number) => number * step);
  };
  const scaleOf = () => {
    const all = points.flatMap((point) => series.map((one) => read(one, point))).filter((value) => value !== null);
    if (rule) all.push(rule.value);
    if (!all.length) return null;
    const most = Math.max(...all);
    if (!log) return [0, Math.max(most * 1.08, 1)];
    return [Math.min(...all) / 1.4, most * 1.4];
  };
  const place = () => {
    const box = picture.getBoundingClientRect();
    const width = Math.max(220, box.width);
    const height = width < 420 ? 170 : 200;
    return { width, height, left: 62, right: width - 8, top: 10, bottom: height - 24 };
  };
  // One path for each run of seconds without a gap.
  const pathOf = (one, x, y) => {
    let path = "";
    let last = null;
    for (const point of points) {
      const value = read(one, point);
      if (value === null) { last = null; continue; }
      const joined = last !== null && point.clock - last <= 1.6 * Math.max(1, point.seconds);
      path += `${joined ? "L" : "M"}${x(point.clock).toFixed(1)} ${y(value).toFixed(1)}${joined ? "" : "h0"}`;
      last = point.clock;
    }
    return path;
  };
  const render = () => {
    const { width, height, left, right, top, bottom } = frame = place();
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.setAttribute("height", height);
    const end = points.length ? points[points.length - 1].clock : SPAN_S;
    const x = (clock) => right - ((end - clock) / SPAN_S) * (right - left);
    frame.x = x;
    const parts = [];
    const scale = scaleOf();
    for (const ago of width < 420 ? [120, 60, 0] : [120, 90, 60, 30, 0]) {
      const text = draw("text", { class: "axis", x: x(end - ago), y: height - 6, "text-anchor": ago === 120 ? "start" : ago ? "middle" : "end" });
      text.textContent = ago ? `−${ago} s` : "now";
      parts.push(text);
    }
    if (scale) {
      const [low, high] = scale;
      const warp = (value) => (log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
      const y = (value) => bottom - Math.min(1, Math.max(0, warp(value))) * (bottom - top);
      for (const value of ticksOf(low, high)) {
        const text = draw("text", { class: "axis", x: left - 8, y: y(value) + 4, "text-anchor": "end" });
        text.textContent = format(value);
        parts.push(draw("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }), text);
      }
      if (rule) {
        const text = draw("text", { class: "axis rule", x: left + 6, y: y(rule.value) - 5 });
        text.textContent = rule.text;
        parts.push(draw("line", { class: "rule", x1: left, x2: right, y1: y(rule.value), y2: y(rule.value) }), text);
      }
      for (const one of series) {
        const path = pathOf(one, x, y);
        if (one.kind === "area") {
          const filled = path.split("M").filter(Boolean).map((run) => {
            const places = run.replace("h0", "").split("L").map((pair) => pair.split(" "));
            return `M${places[0][0]} ${bottom}L${places.map((pair) => pair.join(" ")).join("L")}L${places[places.length - 1][0]} ${bottom}Z`;
          }).join("");
          parts.push(draw("path", { class: `area ${one.tone}`, d: filled }));
        }
        parts.push(draw("path", { class: `curve ${one.tone}`, d: path }));
      }
    }
    parts.push(draw("line", { class: "base", x1: left, x2: right, y1: bottom, y2: bottom }));
    if (!scale) {
      const text = draw("text", { class: "axis", x: (left + right) / 2, y: (top + bottom) / 2, "text-anchor": "middle" });
      text.textContent = points.length ? "no requests" : "waiting for the first second";
      parts.push(text);
    }
    picture.replaceChildren(...parts);
  };
  const write = () => {
    const last = points[points.length - 1];
    values.forEach((value, number) => { value.textContent = last ? format(read(series[number], last)) : words.unknown; });
    if (details.open) {
      const rows = points.slice(-TABLE_ROWS).reverse();
      fillTable(table, ["", ...series.map((one) => one.name)], rows.map((point) => [words.ago(last.clock - point.clock), ...series.map((one) => format(read(one, point)))]));
    }
  };
  const hide = () => { at = null; tip.hidden = true; picture.querySelector(".cross")?.remove(); };
  const show = (aloud) => {
    picture.querySelector(".cross")?.remove();
    const point = points.find((one) => one.clock === at);
    if (!point || !frame) { hide(); return; }
    const px = frame.x(point.clock);
    picture.append(draw("line", { class: "cross", x1: px, x2: px, y1: frame.top, y2: frame.bottom }));
    const when = words.ago(points[points.length - 1].clock - point.clock);
    const figures = series.map((one) => [one, format(read(one, point))]);
    tip.replaceChildren(make("b", {}, when), ...figures.map(([one, text]) => make("span", {}, make("i", { className: `swatch ${one.tone}` }), `${one.name} `, make("em", {}, text))));
    tip.hidden = false;
    const inner = picture.getBoundingClientRect();
    const outer = figure.getBoundingClientRect();
    const left = inner.left - outer.left + px * (inner.width / frame.width);
    tip.style.left = `${Math.max(4, left + tip.offsetWidth + 24 > outer.width ? left - tip.offsetWidth - 14 : left + 14)}px`;
    tip.style.top = `${inner.top - outer.top + 8}px`;
    if (aloud) spoken.textContent = `${when}: ${figures.map(([one, text]) => `${one.name} ${text === words.unknown ? "unknown" : text}`).join("; ")}`;
  };
  picture.addEventListener("pointermove", (event) => {
    if (!points.length || !frame) return;
    const box = picture.getBoundingClientRect();
    const px = (event.clientX - box.left) * (frame.width / box.width);
    at = points.reduce((best, point) => (Math.abs(frame.x(point.clock) - px) < Math.abs(frame.x(best.clock) - px) ? point : best)).clock;
    show(false);
  });
  picture.addEventListener("pointerleave", hide);
  figure.addEventListener("blur", hide);
  figure.addEventListener("keydown", (event) => {
    if (event.target !== figure || !points.length) return;
    if (event.key === "Escape") { hide(); return; }
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    const now = points.findIndex((point) => point.clock === at);
    at = points[Math.min(points.length - 1, Math.max(0, (now < 0 ? points.length : now) + step))].clock;
    show(true);
    event.preventDefault();
  });
  details.addEventListener("toggle", write);
  let width = 0;
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width !== width) { width = contentRect.width; render(); }
  }).observe(figure);
  return {
    figure,
    update: (newPoints, newRule = null) => {
      points = newPoints;
      rule = newRule;
      render();
      write();
      if (at !== null) show(false);
    },
  };
};
