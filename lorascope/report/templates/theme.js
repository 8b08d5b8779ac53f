"use strict";
(() => {
  // Storage may be refused for pages opened from a file; the choice then lasts until the page is closed.
  const stored = {
    read() { try { return localStorage.getItem("lorascope-theme"); } catch { return null; } },
    write(value) { try { localStorage.setItem("lorascope-theme", value); } catch { /* refused: nothing to keep */ } },
  };
  const root = document.documentElement;
  const known = stored.read();
  if (known === "dark" || known === "light") root.dataset.theme = known;
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const next = (root.dataset.theme ?? system) === "dark" ? "light" : "dark";
    root.dataset.theme = next;
    stored.write(next);
  });

  // A table that is wider than its box says so: a fading edge, and words above it until the end is reached.
  const texts = lorascope.texts;
  const hintAt = (box) => {
    const more = box.scrollWidth - box.clientWidth - box.scrollLeft > 4;
    box.classList.toggle("more", more);
    if (box.classList.contains("map-scroll")) return;
    let hint = box.previousElementSibling;
    if (!hint?.classList.contains("scroll-hint")) {
      if (!more) return;
      hint = document.createElement("p");
      hint.className = "scroll-hint";
      hint.textContent = texts.scroll_hint;
      hint.setAttribute("aria-hidden", "true");
      box.before(hint);
    }
    hint.style.visibility = more ? "visible" : "hidden";
  };
  const sizes = new ResizeObserver((entries) => { for (const { target } of entries) hintAt(target.closest(".scroll")); });
  for (const box of document.querySelectorAll(".scroll")) {
    sizes.observe(box);
    if (box.firstElementChild) sizes.observe(box.firstElementChild);
    box.addEventListener("scroll", () => hintAt(box), { passive: true });
  }

  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const current = [...links.keys()].find((id) => seen.has(id));
    for (const [id, link] of links) {
      if (id === current) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-10% 0px -60% 0px" });
  for (const section of document.querySelectorAll("main > section")) watcher.observe(section);
})();
