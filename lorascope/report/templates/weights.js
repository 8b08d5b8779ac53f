"use strict";
(() => {
  const weights = lorascope.data("weights");
  const panel = document.getElementById("spectrum");
  if (!weights || !panel) return;
  const texts = lorascope.texts;
  const cells = [...document.querySelectorAll(".heat button")];
  const of = (cell) => weights.modules[cell.closest("[data-subject]").dataset.subject][cell.dataset.module];
  let chosen = null;

  const values = ({ delta, base, vectors }) => [
    ...base.map((value, at) => ({ line: "base", mark: weights.marks.base, index: at + 1, value })),
    ...delta.map((value, at) => ({ line: "delta", mark: weights.marks.delta, index: at + 1, value })),
    ...vectors.map(([at, value, mark]) => ({ line: "adapted", mark: weights.marks[mark], index: at + 1, value })),
  ].filter((row) => row.value > 0);
  const intrudes = (mark) => mark === "intruder" || mark === "rotation";
  const bounds = ({ vectors, epsilon }) => vectors.map(([at, , mark, low, high, share]) => (
    { index: at + 1, low, high, decides: intrudes(mark) ? high : low, mark: weights.marks[mark], share, epsilon }
  ));

  const fact = ([at, , mark, low, high, share]) => {
    const filled = { mark: weights.marks[mark], rank: at + 1, cosine: low === high ? low : `${low}–${high}`, share: Math.round(100 * share) };
    const line = document.createElement("li");
    line.textContent = lorascope.fill(texts.spectrum_fact, filled);
    return line;
  };
  const facts = (vectors) => vectors.filter(([, , mark]) => mark !== "kept").map(fact);
  const element = (name, text) => { const made = document.createElement(name); made.textContent = text; return made; };
  const numbers = (module) => module.facts.flatMap((value, at) => (
    value === weights.absent ? [] : [element("dt", weights.facts[at]), element("dd", value)]
  ));

  // A chart without rows would warn about its axes, and say nothing.
  const draw = (part, place, empty, rows) => {
    panel.querySelector(part).hidden = rows.length === 0;
    if (rows.length === 0) return;
    const spec = structuredClone(empty);
    delete spec.title;
    spec.datasets = { rows };
    const occur = new Set(rows.map((row) => row.mark));
    for (const { encoding } of spec.layer) {
      for (const channel of [encoding.color, encoding.shape]) {
        if (channel?.legend) channel.legend.values = channel.scale.domain.filter((mark) => occur.has(mark));
      }
    }
    lorascope.draw(panel.querySelector(place), spec);
  };
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  // As little as needed, so that the map stays in sight where both fit; of a taller panel the head comes into view.
  const reveal = () => {
    const { top } = panel.getBoundingClientRect();
    if (top >= 0 && top < innerHeight * 0.6) return;
    panel.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
  };
  const show = (cell) => {
    const module = of(cell);
    chosen?.removeAttribute("aria-pressed");
    chosen = cell;
    cell.setAttribute("aria-pressed", "true");
    panel.hidden = false;
    panel.querySelector("h4").textContent = `${cell.closest("[data-subject]").dataset.subject} · ${cell.dataset.module}`;
    panel.querySelector(".numbers").replaceChildren(...numbers(module));
    panel.querySelector(".facts-line").replaceChildren(...facts(module.vectors));
    draw(".spectra", ".of-spectrum", weights.spec, values(module));
    draw(".judged-vectors", ".of-intervals", weights.intervals, bounds(module));
  };

  const paint = (measure) => {
    for (const cell of cells) {
      const [text, share] = of(cell).map[measure];
      cell.textContent = text;
      cell.style.setProperty("--v", Math.abs(share));
      cell.classList.toggle("below", share < 0);
      cell.setAttribute("aria-label", `${cell.dataset.module}: ${text}`);
    }
    const { low, high, both } = weights.scale[measure];
    const legend = document.querySelector(".weight-maps .legend");
    legend.querySelector(".low").textContent = low;
    legend.querySelector(".high").textContent = high;
    legend.querySelector(".ramp").classList.toggle("both", both);
  };
  // Browsers may bring back an earlier choice when the page is opened again.
  for (const choice of document.getElementsByName("weights-show")) {
    choice.addEventListener("change", () => paint(choice.value));
    if (choice.checked) paint(choice.value);
  }

  const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  const move = (cell, [across, down]) => {
    const row = cell.closest("tr");
    const at = [...row.children].indexOf(cell.parentElement);
    const next = down ? (down > 0 ? row.nextElementSibling : row.previousElementSibling)?.children[at] : row.children[at + across];
    const target = next?.querySelector("button");
    if (!target) return;
    cell.tabIndex = -1;
    target.tabIndex = 0;
    target.focus();
  };

  // One tab stop per grid; arrow keys move inside it.
  for (const grid of document.querySelectorAll(".heat")) {
    [...grid.querySelectorAll("button")].forEach((cell, at) => { cell.tabIndex = at === 0 ? 0 : -1; });
  }
  for (const cell of cells) {
    cell.title = cell.dataset.module;
    cell.addEventListener("click", () => { show(cell); reveal(); });
    cell.addEventListener("keydown", (event) => {
      if (event.key in step) { event.preventDefault(); move(cell, step[event.key]); }
    });
  }
  const score = (cell) => { const { map } = of(cell); return (map.left ? map.left[1] : 0) * 10 + map.change[1]; };
  const first = cells.reduce((best, cell) => (score(cell) > score(best) ? cell : best), cells[0]);
  if (first) show(first);
})();
