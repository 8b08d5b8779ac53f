"use strict";
(() => {
  const answers = lorascope.data("answers");
  const app = document.getElementById("answers-app");
  if (!answers || !app) return;
  const texts = lorascope.texts;
  const PAGE = 25;
  const LONGEST_DIFFERENCE = 1500;
  const form = app.querySelector("form");
  const list = app.querySelector(".answer-list");
  const detail = app.querySelector(".answer-detail");
  const [back, forward] = app.querySelectorAll("[data-page]");
  const state = { found: answers.items, at: 0 };
  const text = (number) => (number === null ? null : answers.texts[number]);

  const element = (name, className, ...children) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...children.filter((child) => child !== null));
    return made;
  };

  // Words, single characters of scripts without spaces, single signs; spaces stay tokens of their own.
  const tokens = (value) => value.match(/[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]|[\p{L}\p{N}\p{M}_]+?(?=[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]|[^\p{L}\p{N}\p{M}_]|$)|\s+|./gsu) ?? [];

  const commonLengths = (a, b) => {
    const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
      }
    }
    return table;
  };

  // Which tokens of each side are kept, by the longest common subsequence; very long middles count as changed whole.
  const keptTokens = (a, b) => {
    const kept = [a.map(() => true), b.map(() => true)];
    let head = 0;
    while (head < a.length && head < b.length && a[head] === b[head]) head++;
    let tail = 0;
    while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
    const [left, right] = [a.slice(head, a.length - tail), b.slice(head, b.length - tail)];
    kept[0].fill(false, head, head + left.length);
    kept[1].fill(false, head, head + right.length);
    if (left.length > LONGEST_DIFFERENCE || right.length > LONGEST_DIFFERENCE) return kept;
    const table = commonLengths(left, right);
    for (let i = 0, j = 0; i < left.length && j < right.length;) {
      if (left[i] === right[j]) { kept[0][head + i++] = true; kept[1][head + j++] = true; }
      else if (table[i + 1][j] >= table[i][j + 1]) i++;
      else j++;
    }
    return kept;
  };

  const marked = (parts, kept, name) => {
    const runs = [];
    parts.forEach((part, at) => {
      const last = runs.at(-1);
      if (last && last.kept === kept[at]) last.text += part; else runs.push({ kept: kept[at], text: part });
    });
    return runs.map((run) => (run.kept ? document.createTextNode(run.text) : element(name, "", run.text)));
  };

  const paragraph = (value, nodes) => {
    if (value === null) return element("p", "nothing", texts.no_text);
    if (value === "") return element("p", "nothing", texts.empty);
    return element("p", "text", ...(nodes ?? [value]));
  };

  const subjectName = (name) => {
    const glyph = element("span", "glyph", answers.marks[name]?.glyph ?? "○");
    const whole = element("span", "subject", glyph, name);
    whole.style.setProperty("--mark", answers.marks[name]?.colour ?? "var(--muted)");
    return whole;
  };

  const outcomeName = (outcome) => element("span", `outcome ${outcome}`, `${answers.symbols[outcome]} ${texts[`outcome_${outcome}`]}`);

  // Names of causes as the filter shows them; a cause without a filter stands under its own name.
  const causeNames = new Map([...form.querySelectorAll("[name=cause]")]
    .map((box) => [box.value, box.closest("label").querySelector(".cause-name").textContent]));
  const causeLine = (answer) => {
    if (!answer.cause && answer.evidence === null) return null;
    const name = answer.cause ? element("strong", "", causeNames.get(answer.cause) ?? answer.cause) : null;
    const evidence = text(answer.evidence);
    return element("p", "cause-line", name, name && evidence !== null ? " · " : null, evidence);
  };

  const printed = (value) => (value === null ? "–" : String(value).replace("-", "−"));
  const scoreLine = (scores) => Object.entries(scores)
    .map(([metric, pair]) => `${texts[metric] ?? metric} ${pair.map(printed).join(" → ")}`)
    .join(" · ");

  const column = (answer) => {
    const [base, adapted] = [text(answer.base), text(answer.adapted)];
    let nodes = null;
    if (base !== null && adapted !== null) {
      const [before, after] = [tokens(base), tokens(adapted)];
      nodes = marked(after, keptTokens(before, after)[1], "ins");
    }
    const scores = scoreLine(answer.scores);
    return element("div", "",
      element("h4", "", subjectName(answers.subjects[answer.subject]), outcomeName(answer.outcome)),
      causeLine(answer),
      paragraph(adapted, nodes),
      scores ? element("p", "scores", scores) : null);
  };

  // The base's answer is marked against the one subject that is shown; with several it stands unmarked.
  const baseColumn = (shown) => {
    const base = text(shown[0].base);
    const adapted = shown.length === 1 ? text(shown[0].adapted) : null;
    let nodes = null;
    if (base !== null && adapted !== null) {
      const [before, after] = [tokens(base), tokens(adapted)];
      nodes = marked(before, keptTokens(before, after)[0], "del");
    }
    return element("div", "", element("h4", "", answers.base), paragraph(base, nodes));
  };

  const chosenSubject = () => (form.subject.value === "" ? null : Number(form.subject.value));
  const visibleAnswers = (item) => {
    const subject = chosenSubject();
    const shown = item.answers.filter((answer) => subject === null || answer.subject === subject);
    return shown.length ? shown : item.answers;
  };

  const showDetail = () => {
    const item = state.found[state.at];
    detail.replaceChildren();
    if (!item) { detail.append(element("p", "nothing", texts.none_found)); return; }
    const shown = visibleAnswers(item);
    const facts = [answers.tasks[item.task], item.id, item.category, item.group].filter((fact) => fact !== null);
    detail.append(element("p", "id", ...facts.map((fact) => element("span", "", fact))));
    if (item.prompt !== null) detail.append(element("h4", "", texts.prompt), paragraph(text(item.prompt)));
    if (item.references.length) {
      detail.append(element("h4", "", texts.references), ...item.references.map((reference) => paragraph(text(reference))));
    }
    detail.append(element("div", "columns", baseColumn(shown), ...shown.map(column)));
    detail.scrollTop = 0;
  };

  const largestFall = (shown) => {
    const changes = shown.map((answer) => answer.change).filter((change) => change !== null);
    return changes.length ? Math.min(...changes) : null;
  };

  const entry = (item, at) => {
    const shown = visibleAnswers(item);
    const signs = shown.map((answer) => answers.symbols[answer.outcome]).join("");
    const change = largestFall(shown);
    const causes = [...new Set(shown.map((answer) => answer.cause).filter((cause) => cause))];
    const fall = change === null ? null : lorascope.fill(texts.change, { change: (change > 0 ? "+" : "") + printed(change) });
    const facts = [...causes.map((cause) => causeNames.get(cause) ?? cause), fall, item.category, answers.tasks[item.task]];
    const button = element("button", "",
      element("span", "signs", signs),
      element("span", "", text(item.prompt) ?? item.id),
      element("span", "where", facts.filter((fact) => fact !== null).join(" · ")));
    button.type = "button";
    if (at === state.at) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => select(at));
    return element("li", "", button);
  };

  const showPage = () => {
    const first = Math.floor(state.at / PAGE) * PAGE;
    const last = Math.min(first + PAGE, state.found.length);
    list.replaceChildren(...state.found.slice(first, last).map((item, offset) => entry(item, first + offset)));
    back.disabled = first === 0;
    forward.disabled = last >= state.found.length;
    app.querySelector(".status").textContent = state.found.length
      ? lorascope.fill(texts.status, { first: first + 1, last, all: state.found.length })
      : texts.none_found;
    // Scrolls the list alone: scrollIntoView would move the whole page under the reader.
    const current = list.querySelector("[aria-current]");
    if (current) list.scrollTop = current.offsetTop - list.offsetTop - list.clientHeight / 2;
  };

  const select = (at, { link = true } = {}) => {
    state.at = Math.max(0, Math.min(at, state.found.length - 1));
    showPage();
    showDetail();
    const item = state.found[state.at];
    if (link && item) history.replaceState(null, "", `#sample=${encodeURIComponent(item.id)}`);
  };

  // By outcome, then by the largest fall of the right answer's log-probability; among equals the page's order stays.
  const outcomes = Object.keys(answers.symbols);
  const ranked = (items, fits) => items
    .map((item) => {
      const fitting = item.answers.filter(fits);
      return { item, outcome: Math.min(...fitting.map((answer) => outcomes.indexOf(answer.outcome))), fall: largestFall(fitting) ?? Infinity };
    })
    .sort((a, b) => a.outcome - b.outcome || (a.fall === b.fall ? 0 : a.fall - b.fall))
    .map((each) => each.item);

  const filter = ({ link = false } = {}) => {
    const checked = (name) => new Set([...form.querySelectorAll(`[name=${name}]:checked`)].map((box) => box.value));
    const [wantedOutcomes, wantedCauses] = [checked("outcome"), checked("cause")];
    const task = form.task.value;
    const subject = chosenSubject();
    const wanted = form.search.value.trim().toLowerCase();
    const fits = (answer) => (subject === null || answer.subject === subject)
      && (!wantedOutcomes.size || wantedOutcomes.has(answer.outcome))
      && (!wantedCauses.size || wantedCauses.has(answer.cause));
    const contains = (item) => [item.prompt, ...item.references, ...item.answers.flatMap((answer) => [answer.base, answer.adapted])]
      .some((number) => text(number)?.toLowerCase().includes(wanted));
    state.found = ranked(answers.items.filter((item) =>
      (task === "" || item.task === Number(task)) && item.answers.some(fits) && (!wanted || contains(item))), fits);
    select(0, { link });
  };

  // A count of "What changed" leads to the answers that it counts.
  const show = ({ task, subject, outcome, cause }) => {
    form.reset();
    form.task.value = String(answers.tasks.indexOf(task));
    form.subject.value = String(answers.subjects.indexOf(subject));
    for (const box of form.querySelectorAll("[name=outcome]")) box.checked = box.value === outcome;
    for (const box of form.querySelectorAll("[name=cause]")) box.checked = box.value === cause;
    filter();
    document.getElementById("answers").scrollIntoView();
    detail.focus({ preventScroll: true });
  };

  const linked = () => {
    const match = /^#sample=(.+)$/.exec(location.hash);
    try { return match && decodeURIComponent(match[1]); } catch { return match[1]; }
  };

  const openLink = () => {
    const wanted = linked();
    if (!wanted) return;
    form.reset();
    filter();
    const at = state.found.findIndex((item) => item.id === wanted);
    if (at >= 0) select(at); else app.querySelector(".status").textContent = lorascope.fill(texts.not_in_page, { id: wanted });
    document.getElementById("answers").scrollIntoView();
  };

  const choices = (chooser, names, all) => {
    chooser.append(new Option(all, ""), ...names.map((name, at) => new Option(name, String(at))));
    chooser.closest("label").hidden = names.length < 2;
  };

  const inSight = () => {
    const place = app.getBoundingClientRect();
    return place.top < innerHeight && place.bottom > 0;
  };

  choices(form.subject, answers.subjects, texts.all_subjects);
  choices(form.task, answers.tasks, texts.all_tasks);
  form.addEventListener("input", () => filter());
  form.addEventListener("submit", (event) => event.preventDefault());
  back.addEventListener("click", () => select((Math.floor(state.at / PAGE) - 1) * PAGE));
  forward.addEventListener("click", () => select((Math.floor(state.at / PAGE) + 1) * PAGE));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !inSight()) return;
    if (event.target.closest("input[type=search], select, textarea")) return;
    if (event.key === "j") select(state.at + 1);
    if (event.key === "k") select(state.at - 1);
  });
  addEventListener("hashchange", openLink);
  for (const button of document.querySelectorAll("button.leads")) button.addEventListener("click", () => show(button.dataset));
  app.hidden = false;
  filter();
  openLink();
})();
