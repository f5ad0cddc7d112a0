(() => {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  document.getElementById("theme").addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; });

  const raw = document.getElementById("raw").textContent;
  JSON.parse(raw);
  document.getElementById("save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([raw], { type: "application/json" }));
    link.download = "tailcut.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });

  // A chart shows the values at one place: the nearest point, or all series at the nearest x.
  const wire = (figure) => {
    const tip = figure.querySelector(".tip");
    const live = figure.querySelector("[aria-live]");
    const svg = () => [...figure.querySelectorAll("svg")].find((one) => one.getClientRects().length);
    const dots = (one) => [...one.querySelectorAll(".dot")];
    const x = (dot) => dot.cx.baseVal.value;
    const y = (dot) => dot.cy.baseVal.value;
    let at = -1;

    const stops = (one) => {
      const all = dots(one);
      if (figure.dataset.hover === "point") return all.sort((a, b) => x(a) - x(b)).map((dot) => [dot]);
      const groups = new Map();
      for (const dot of all) groups.set(dot.dataset.k, [...(groups.get(dot.dataset.k) || []), dot]);
      return [...groups.values()].sort((a, b) => x(a[0]) - x(b[0]));
    };
    const hide = () => {
      tip.hidden = true;
      figure.querySelectorAll(".lit").forEach((dot) => dot.classList.remove("lit"));
      figure.querySelectorAll(".cross").forEach((line) => line.setAttribute("visibility", "hidden"));
    };
    const show = (one, group, aloud) => {
      hide();
      const cross = one.querySelector(".cross");
      cross.setAttribute("x1", x(group[0]));
      cross.setAttribute("x2", x(group[0]));
      cross.setAttribute("visibility", "visible");
      group.forEach((dot) => dot.classList.add("lit"));
      tip.replaceChildren();
      const title = document.createElement("b");
      title.textContent = group[0].dataset.k;
      tip.append(title);
      for (const dot of group) {
        const row = document.createElement("span");
        const swatch = document.createElement("i");
        const tone = [...dot.classList].find((name) => /^c\d$|^baseline$|^reference$|^tuned$|^previous$/.test(name));
        swatch.className = "swatch " + tone;
        row.append(swatch, `${dot.dataset.n} `, Object.assign(document.createElement("em"), { textContent: dot.dataset.t }));
        tip.append(row);
      }
      tip.hidden = false;
      const box = one.getBoundingClientRect();
      const outer = figure.getBoundingClientRect();
      const scale = box.width / one.viewBox.baseVal.width;
      const left = box.left - outer.left + x(group[0]) * scale;
      const flip = left + tip.offsetWidth + 24 > outer.width;
      tip.style.left = `${Math.max(4, flip ? left - tip.offsetWidth - 14 : left + 14)}px`;
      tip.style.top = `${Math.max(4, box.top - outer.top + 12)}px`;
      if (aloud) live.textContent = `${group[0].dataset.k}: ${group.map((dot) => `${dot.dataset.n} ${dot.dataset.t}`).join("; ")}`;
    };
    figure.addEventListener("pointermove", (event) => {
      const one = svg();
      if (!one || !one.contains(event.target)) return hide();
      const box = one.getBoundingClientRect();
      const scale = one.viewBox.baseVal.width / box.width;
      const px = (event.clientX - box.left) * scale;
      const py = (event.clientY - box.top) * scale;
      const far = (group) => figure.dataset.hover === "point" ? Math.hypot(x(group[0]) - px, y(group[0]) - py) : Math.abs(x(group[0]) - px);
      const all = stops(one);
      if (!all.length) return;
      at = all.reduce((best, group, index) => (far(group) < far(all[best]) ? index : best), 0);
      show(one, all[at], false);
    });
    figure.addEventListener("pointerleave", hide);
    figure.addEventListener("blur", hide);
    figure.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
      if (event.key === "Escape") return hide();
      const one = svg();
      if (step === undefined || !one) return;
      const all = stops(one);
      if (!all.length) return;
      at = Math.min(all.length - 1, Math.max(0, at + step));
      show(one, all[at], true);
      event.preventDefault();
    });
  };
  const charts = document.querySelectorAll("figure.chart");
  charts.forEach(wire);
  root.dataset.ready = String(charts.length);
})();
