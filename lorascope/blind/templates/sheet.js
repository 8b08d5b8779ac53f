"use strict";
(() => {
  const { head, file, rows, choices, labels, ratings, words } = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const say = (name, values = {}) => words[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);

  // Storage may be refused to pages opened from a file; what is typed then lasts until the page is closed.
  const store = {
    refused: false,
    read(key) {
      try { return localStorage.getItem(key); } catch { this.refused = true; return null; }
    },
    write(key, value) {
      try { localStorage.setItem(key, value); this.refused = false; } catch { this.refused = true; }
    },
  };
  // The commitment is part of it: another export under the same name neither sees nor overwrites this one's work.
  const KEPT = `lorascope-ratings ${head.study} ${head.rater} ${head.commitment}`;

  // ---- what has been rated ----
  const blank = () => ({ overall: "", ratings: {}, comment: "" });
  const places = new Map(rows.map((row, place) => [row.id, place]));
  let entries = rows.map(blank);
  let at = 0;
  let unsaved = false;

  const isDone = (entry) => entry.overall !== "";
  const isBlank = (entry) => entry.overall === "" && entry.comment === "" && Object.keys(entry.ratings).length === 0;
  const isSame = (one, other) => one.overall === other.overall && one.comment === other.comment &&
    ratings.every((name) => one.ratings[name] === other.ratings[name]);
  const done = () => entries.filter(isDone).length;

  /** The entry that a file or the storage holds, or null where a value in it is none of this page's. */
  const soundEntry = (raw) => {
    if (raw === null || typeof raw !== "object" || typeof raw.comment !== "string") return null;
    if (raw.ratings === null || typeof raw.ratings !== "object") return null;
    const known = ([name, score]) => ratings.includes(name) && [1, 2, 3, 4, 5].includes(score);
    if (raw.overall !== "" && !choices.includes(raw.overall)) return null;
    if (!Object.entries(raw.ratings).every(known)) return null;
    return { overall: raw.overall, ratings: { ...raw.ratings }, comment: raw.comment };
  };

  const keep = () => {
    const filled = rows.map((row, place) => [row.id, entries[place]]).filter(([, entry]) => !isBlank(entry));
    store.write(KEPT, JSON.stringify({ commitment: head.commitment, at, unsaved, entries: filled }));
  };
  const changed = () => {
    unsaved = true;
    keep();
    showCounts();
  };
  /** Take over what was kept, whole or not at all: what this page did not write leaves everything as it is. */
  const restore = (text) => {
    try {
      const kept = JSON.parse(text);
      if (kept?.commitment !== head.commitment) return;
      const found = rows.map(blank);
      for (const [id, raw] of kept.entries) {
        const entry = soundEntry(raw);
        if (entry && places.has(id)) found[places.get(id)] = entry;
      }
      entries = found;
      if (Number.isInteger(kept.at) && kept.at >= 0 && kept.at < rows.length) at = kept.at;
      unsaved = kept.unsaved === true;
    } catch { /* not what this page wrote */ }
  };

  // ---- what is shown ----
  const views = { guide: element("guide"), rating: element("rating"), finish: element("finish") };
  let view = "guide";
  let opened = false;

  const show = (name) => {
    view = name;
    document.body.dataset.view = name;
    for (const [key, section] of Object.entries(views)) section.hidden = key !== name;
  };
  const speak = (text) => { element("spoken").textContent = text; };
  let hiding = 0;
  const notify = (text) => {
    clearTimeout(hiding);
    element("notice").textContent = text;
    hiding = setTimeout(() => { element("notice").textContent = ""; }, 8000);
  };

  const showCounts = () => {
    const count = done();
    element("where").textContent = say("of_all", { row: at + 1, all: rows.length });
    element("rows").setAttribute("aria-label", `${words.rows}. ${say("row", { row: at + 1, all: rows.length })}`);
    element("count").textContent = say("count", { done: count, all: rows.length });
    element("unsaved").hidden = !unsaved;
    element("meter").setAttribute("aria-valuenow", count);
    element("meter-fill").style.transform = `scaleX(${count / rows.length})`;
    const rated = Object.keys(entries[at].ratings).length;
    element("more").textContent = say("more", { rated, ratings: ratings.length });
    element("clear").hidden = !isDone(entries[at]);
  };

  /** Chinese, Japanese and Korean need their own glyphs whatever the page's language; other texts inherit it. */
  const languageOf = (text) => {
    const start = text.slice(0, 2000);
    if (/[\u3041-\u30ff]/.test(start)) return "ja";
    if (/[\uac00-\ud7af]/.test(start)) return "ko";
    return (start.match(/[\u4e00-\u9fff]/g) ?? []).length * 10 > start.length ? "zh-Hans" : "";
  };
  const put = (id, text, ifEmpty) => {
    const box = element(id);
    const language = languageOf(text);
    box.classList.toggle("nothing", text === "");
    box.textContent = text === "" ? ifEmpty : text;
    if (language) box.lang = language; else box.removeAttribute("lang");
  };
  const check = (name, value) => {
    for (const input of document.getElementsByName(name)) input.checked = input.value === value;
  };
  const showEntry = () => {
    const entry = entries[at];
    check("overall", entry.overall);
    for (const name of ratings) check(name, String(entry.ratings[name] ?? ""));
    element("comment").value = entry.comment;
  };
  // On a phone the choices would hide answer B. They keep their place, unseen, until B's heading stands above them.
  const judge = document.querySelector(".judge");
  const unfoldChoices = () => judge.classList.remove("folded");
  const revealChoices = () => {
    if (view !== "rating" || !judge.classList.contains("folded")) return;
    if (element("heading-b").getBoundingClientRect().bottom <= judge.getBoundingClientRect().top) unfoldChoices();
  };
  const showRow = (place) => {
    at = place;
    const [question, a, b] = rows[at].texts;
    show("rating");
    element("heading").textContent = say("row", { row: at + 1, all: rows.length });
    put("text-question", question, words.empty_question);
    put("text-a", a, words.empty);
    put("text-b", b, words.empty);
    showEntry();
    showCounts();
    element("previous").disabled = at === 0;
    judge.scrollTop = 0;
    judge.classList.toggle("folded", !isDone(entries[at]) && !judge.classList.contains("unfolded"));
    element("heading").focus({ preventScroll: true });
    element("rating").scrollIntoView();
    revealChoices();
    keep();
  };
  const showFinish = () => {
    const open = rows.length - done();
    show("finish");
    showCounts();
    element("finish-state").textContent = open ? say("done_open", { open, all: rows.length }) : words.done_all;
    element("finish-open").hidden = open === 0;
    element("finish-save").classList.toggle("primary", open === 0);
    window.scrollTo(0, 0);
    element(open ? "finish-open" : "finish-save").focus({ preventScroll: true });
  };
  const showGuide = () => {
    const count = done();
    const begun = opened || entries.some((entry) => !isBlank(entry));
    show("guide");
    showCounts();
    element("about").textContent = say("about", { all: rows.length });
    element("kept").hidden = opened || !begun;
    element("kept").textContent = say("kept", { done: count, all: rows.length });
    element("refused").hidden = !store.refused;
    element("start").textContent = begun ? say("go_on", { row: at + 1 }) : words.start;
    element("over").hidden = !begun;
    window.scrollTo(0, 0);
    element("start").focus({ preventScroll: true });
  };

  // ---- moving ----
  const next = () => { if (at + 1 < rows.length) showRow(at + 1); else showFinish(); };
  const previous = () => { if (view === "finish") showRow(at); else if (at > 0) showRow(at - 1); };
  const nextOpen = () => {
    const after = entries.findIndex((entry, place) => place > at && !isDone(entry));
    const place = after >= 0 ? after : entries.findIndex((entry) => !isDone(entry));
    if (place >= 0) showRow(place); else showFinish();
  };
  const start = () => { opened = true; showRow(at); };
  const help = () => { if (view === "guide") start(); else showGuide(); };

  // ---- rating ----
  const choose = (code) => {
    entries[at].overall = code;
    unfoldChoices();
    check("overall", code);
    changed();
    speak(code ? labels[code] : words.clear);
  };
  const rate = (name, score) => {
    if (score) entries[at].ratings[name] = score; else delete entries[at].ratings[name];
    check(name, score ? String(score) : "");
    changed();
  };
  const unfold = (open) => {
    if (open) unfoldChoices();
    judge.classList.toggle("unfolded", open);
    element("more").setAttribute("aria-expanded", String(open));
  };
  const focusRating = (name) => document.querySelector(`input[name="${name}"]:checked`).focus();
  // On the page the two answers of one scale stand together; the file lists all scales of one answer first.
  const asked = [...new Set([...document.querySelectorAll(".side input")].map((input) => input.name))];
  const toRatings = () => {
    unfold(true);
    focusRating(asked.find((name) => !entries[at].ratings[name]) ?? asked[0]);
  };
  const toComment = () => {
    unfold(true);
    element("comment").focus();
  };
  const rateAndGoOn = (name, score) => {
    rate(name, score);
    const following = asked[asked.indexOf(name) + 1];
    if (following) focusRating(following); else element("next").focus();
  };

  // ---- questions to the rater ----
  /** Ask in a dialog; the answer is the chosen option's place, or null when it was dismissed. */
  const ask = (text, options) => new Promise((answer) => {
    const dialog = element("asking");
    let chosen = null;
    element("asking-text").textContent = text;
    element("asking-actions").replaceChildren(...options.map((label, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.addEventListener("click", () => { chosen = place; dialog.close(); });
      return button;
    }));
    dialog.addEventListener("close", () => answer(chosen), { once: true });
    dialog.showModal();
  });

  const showOverview = () => {
    const grid = element("grid");
    grid.replaceChildren(...entries.map((entry, place) => {
      const button = document.createElement("button");
      const state = isDone(entry) ? "done" : "open";
      button.type = "button";
      button.className = state;
      button.textContent = `${place + 1} ${isDone(entry) ? "✓" : "○"}`;
      button.setAttribute("aria-label", say(`row_${state}`, { row: place + 1 }));
      if (place === at) button.setAttribute("aria-current", "true");
      button.tabIndex = place === at ? 0 : -1;
      button.addEventListener("click", () => { element("overview").close(); opened = true; showRow(place); });
      return button;
    }));
    element("overview").showModal();
    grid.children[at].focus();
  };
  const moveInGrid = (event) => {
    const buttons = [...element("grid").children];
    const place = buttons.indexOf(document.activeElement);
    const columns = buttons.filter((button) => button.offsetTop === buttons[0].offsetTop).length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -place };
    const step = event.key === "End" ? buttons.length - 1 - place : steps[event.key];
    if (place < 0 || step === undefined) return;
    event.preventDefault();
    buttons[Math.min(Math.max(place + step, 0), buttons.length - 1)].focus();
  };

  // ---- saving and loading ----
  // Half of a surrogate pair can stay behind in a text field; alone it is no text that a file can hold.
  const wellFormed = (text) => text.replace(/\p{Surrogate}/gu, "\ufffd");
  const save = () => {
    const saved = rows.map(({ id, texts }, place) => {
      const { overall, ratings: given, comment } = entries[place];
      return { id, overall, ratings: given, comment: wellFormed(comment), texts };
    });
    const blob = new Blob([`${JSON.stringify({ ...head, rows: saved }, null, 1)}\n`], { type: "application/json" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = file;
    unsaved = false;
    keep();
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    showCounts();
    notify(say("saved", { file, done: done(), all: rows.length }));
  };

  /** The entries of a saved file by place, or the sentence that says why it cannot be taken. */
  const entriesOf = (text, name) => {
    let saved = null;
    try { saved = JSON.parse(text.replace(/^\ufeff/, "")); } catch { /* said below */ }
    if (saved?.format !== head.format || !Array.isArray(saved.rows)) return say("bad_file", { name });
    if (saved.version !== head.version) return say("bad_version", { name });
    if (saved.study !== head.study || saved.commitment !== head.commitment) return say("bad_study", { name });
    if (saved.rater !== head.rater) return say("bad_rater", { name, rater: saved.rater, own: head.rater });
    const found = new Map();
    for (const [number, raw] of saved.rows.entries()) {
      const entry = soundEntry(raw);
      if (!entry || !places.has(raw.id)) return say("bad_row", { name, row: number + 1 });
      found.set(places.get(raw.id), entry);
    }
    return found;
  };
  const readText = (chosen) => new Promise((answer) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => answer(reader.result));
    reader.addEventListener("error", () => answer(""));
    reader.readAsText(chosen, "utf-8");
  });
  const take = async (chosen) => {
    const name = chosen.name;
    const found = entriesOf(await readText(chosen), name);
    if (typeof found === "string") { await ask(found, [words.understood]); return; }
    const other = (place) => found.has(place) && !isBlank(entries[place]) && !isSame(entries[place], found.get(place));
    const differing = rows.filter((_, place) => other(place)).length;
    const answer = differing
      ? await ask(say("differs", { rows: differing, name }), [words.keep_own, words.take_file, words.cancel]) : 1;
    if (answer !== 0 && answer !== 1) return;
    entries = entries.map((own, place) => (found.has(place) && (answer === 1 || isBlank(own)) ? found.get(place) : own));
    unsaved = entries.some((entry, place) => !isSame(entry, found.get(place) ?? blank()));
    keep();
    const open = entries.findIndex((entry) => !isDone(entry));
    if (!opened) at = open >= 0 ? open : rows.length - 1;
    if (view === "rating") showRow(at); else if (view === "finish") showFinish(); else showGuide();
    notify(say("loaded", { name, done: done(), all: rows.length }));
  };
  const load = () => element("file").click();

  /** The same sheet was rated in another tab: show its state, so that neither tab overwrites the other's work. */
  const takeOver = (text) => {
    const place = at;
    restore(text);
    at = place;
    if (view === "finish") showFinish();
    else if (view === "guide") showGuide();
    else { showEntry(); showCounts(); }
  };

  const startOver = async () => {
    if (await ask(words.over_ask, [words.over_yes, words.cancel]) !== 0) return;
    entries = rows.map(blank);
    at = 0;
    opened = unsaved = false;
    keep();
    showGuide();
  };

  // ---- light and dark ----
  const root = document.documentElement;
  const switchTheme = () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.dataset.theme = (root.dataset.theme ?? system) === "dark" ? "light" : "dark";
    store.write("lorascope-theme", root.dataset.theme);
  };

  // ---- keys ----
  const KEYS = { n: nextOpen, r: toRatings, c: toComment, g: showOverview, s: save, l: load, "?": help };
  const IN_GUIDE = ["g", "s", "l", "?"];
  const IN_FINISH = ["n", "g", "s", "l", "?"];

  /** What a key stands for where the focus is, or null where it keeps its own meaning. */
  const meaning = (event) => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const radio = event.target.type === "radio" ? event.target.name : "";
    const pressable = event.target.closest?.("button, a, summary, input:not([type=radio])");
    if (view === "guide" && !IN_GUIDE.includes(key)) return null;
    if (view === "finish" && key === "ArrowLeft") return previous;
    if (view === "finish" && !IN_FINISH.includes(key)) return null;
    if (key === "Enter") return pressable ? null : event.shiftKey ? previous : next;
    if (key === "ArrowRight" || key === "ArrowLeft") return radio ? null : key === "ArrowRight" ? next : previous;
    if (key === "Backspace" || key === "Delete") {
      return radio && radio !== "overall" ? () => rate(radio, 0) : () => choose("");
    }
    if (/^[0-9]$/.test(key) && radio && radio !== "overall") {
      return Number(key) <= 5 ? () => rateAndGoOn(radio, Number(key)) : () => notify(words.not_a_rating);
    }
    if (/^[1-6]$/.test(key)) return () => choose(choices[Number(key) - 1]);
    if (/^[0789]$/.test(key)) return () => notify(words.not_a_choice);
    return KEYS[key] ?? null;
  };
  const onKey = (event) => {
    // 229 is what Safari reports for the key that ends a composition.
    if (event.isComposing || event.keyCode === 229 || event.ctrlKey || event.altKey || event.metaKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.target.id === "comment") {
      if (event.key === "Escape") element("heading").focus();
      return;
    }
    if (!element("keys-on").checked || event.repeat) return;
    const action = meaning(event);
    if (!action) return;
    event.preventDefault();
    action();
  };

  const connect = (handlers) => {
    for (const [id, handler] of Object.entries(handlers)) element(id).addEventListener("click", handler);
  };
  const listen = () => {
    connect({ start, over: startOver, next, previous, help, load, save, rows: showOverview, theme: switchTheme });
    connect({ "load-first": load, "finish-save": save, "finish-open": nextOpen, "finish-back": () => showRow(at) });
    connect({ clear: () => { choose(""); document.querySelector(".overall input").focus(); } });
    connect({ more: () => unfold(element("more").getAttribute("aria-expanded") !== "true") });
    connect({ "overview-close": () => element("overview").close() });
    element("overview").addEventListener("keydown", moveInGrid);
    window.addEventListener("scroll", revealChoices, { passive: true });
    window.addEventListener("resize", revealChoices);
    judge.addEventListener("change", ({ target }) => {
      if (target.name === "overall") choose(target.value);
      else if (ratings.includes(target.name)) rate(target.name, Number(target.value));
    });
    element("comment").addEventListener("input", ({ target }) => {
      entries[at].comment = target.value;
      changed();
    });
    element("file").addEventListener("change", ({ target }) => {
      const chosen = target.files[0];
      if (chosen) take(chosen);
      target.value = ""; // so that the same file can be chosen again
    });
    element("keys-on").addEventListener("change", ({ target }) => store.write("lorascope-keys", String(target.checked)));
    document.addEventListener("keydown", onKey);
    window.addEventListener("storage", ({ key, newValue }) => { if (key === KEPT && newValue) takeOver(newValue); });
    window.addEventListener("beforeunload", (event) => {
      if (!unsaved) return;
      event.preventDefault();
      event.returnValue = "";
    });
  };

  const theme = store.read("lorascope-theme");
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  element("keys-on").checked = store.read("lorascope-keys") !== "false";
  element("bar").hidden = false;
  restore(store.read(KEPT));
  if (!store.refused) keep();
  listen();
  showGuide();
})();
