"use strict";
(() => {
  const weights = lorascope.data("weights");
  const panel = document.getElementById("spectrum");
  if (!weights || !panel) return;
  const texts = lorascope.texts;
  const cells = [...document.querySelectorAll(".heat button")];
  let chosen = null;

  const rows = ({ delta, base, vectors }) => [
    ...base.map((value, at) => ({ line: "base", mark: weights.marks.base, index: at + 1, value })),
    ...vectors.map(([at, value, verdict]) => ({ line: "adapted", mark: weights.marks[verdict], index: at + 1, value })),
    ...delta.map((value, at) => ({ line: "delta", mark: weights.marks.delta, index: at + 1, value })),
  ].filter((row) => row.value > 0);

  const fact = ([at, , verdict, low, high, share]) => {
    const values = { mark: weights.marks[verdict], rank: at + 1, cosine: low === high ? low : `${low}–${high}`, share: Math.round(100 * share) };
    const line = document.createElement("li");
    line.textContent = lorascope.fill(texts.spectrum_fact, values);
    return line;
  };
  const facts = (vectors) => vectors.filter(([, , verdict]) => verdict !== "kept").map(fact);

  const show = (cell) => {
    const subject = cell.closest("[data-subject]").dataset.subject;
    const module = weights.modules[subject][cell.dataset.module];
    chosen?.removeAttribute("aria-pressed");
    chosen = cell;
    cell.setAttribute("aria-pressed", "true");
    panel.hidden = false;
    panel.querySelector("h4").textContent = `${subject} · ${cell.dataset.module}`;
    panel.querySelector(".facts-line").replaceChildren(...facts(module.vectors));
    const spec = structuredClone(weights.spec);
    delete spec.title;
    spec.datasets = { rows: rows(module) };
    lorascope.draw(panel.querySelector(".chart"), spec);
  };

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
    cell.addEventListener("click", () => show(cell));
    cell.addEventListener("keydown", (event) => {
      if (event.key in step) { event.preventDefault(); move(cell, step[event.key]); }
    });
  }
  const first = cells.reduce((best, cell) => (score(cell) > score(best) ? cell : best), cells[0]);
  function score(cell) { return Number(cell.style.getPropertyValue("--l")) * 10 + Number(cell.style.getPropertyValue("--c")); }
  if (first) show(first);
})();
