// The page side of the review form. It holds the rows in view and nothing else: every message from Python is
// the whole view, and is patched into nodes that stay, so that the keyboard focus stays too. Data becomes text
// nodes and attributes only, never markup.

const SILENCE_MS = 10_000;
const POLL_MS = 1_000;
const TYPING_MS = 150;
const TAGS_INLINE = 4;

const COLUMNS = [
  ["repository", "Repository"],
  ["tags", "Tags"],
  ["digest", "Digest"],
  ["age", "Age"],
  ["size", "Size"],
  ["reason", "Reason"],
  ["along", "Goes along"],
  ["outcome", "Outcome"],
];

// -- nodes ---------------------------------------------------------------------------------------

function node(tag, { text, on, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  for (const [event, listener] of Object.entries(on ?? {})) made.addEventListener(event, listener);
  made.append(...children);
  return made;
}

// JupyterLab would take keys such as "d d" as "delete the cell", unless the focused element itself says otherwise.
function focusable(tag, options = {}, ...children) {
  return node(tag, { "data-lm-suppress-shortcuts": "true", ...options }, ...children);
}

function button(text, onClick, name) {
  const press = (event) => event.currentTarget.getAttribute("aria-disabled") !== "true" && onClick();
  return focusable("button", { type: "button", class: `ra-button ${name}`, text, on: { click: press } });
}

// A text that did not change is left alone: a screen reader would say it again.
function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function show(target, visible) {
  target.hidden = !visible;
}

// A button that is switched off keeps its focus, which `disabled` would lose.
function enable(target, enabled) {
  target.setAttribute("aria-disabled", String(!enabled));
}

const number = (count) => count.toLocaleString("en-US");
const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const chip = (text) => node("span", { class: "ra-tag", text });

// -- asking Python -------------------------------------------------------------------------------

function ask(form, message) {
  // What was typed last goes first: "select all" must not act on another filter than the one on the screen.
  if (form.typing) form.sendFilter();
  const id = `${form.name}-${++form.asked}`;
  form.waiting.set(id, form.asked);
  if (message.do === "set") form.ticked.set(message.key, { id: form.asked, selected: message.selected });
  setTimeout(() => form.waiting.has(id) && setText(form.silence, SILENT), SILENCE_MS);
  setTimeout(() => show(form.pending, form.waiting.size > 0 && !form.silence.textContent), 400);
  try {
    form.model.send({ ...message, id, generation: form.view?.generation ?? 0 });
  } catch {
    setText(form.silence, GONE);
  }
}

const SILENT = "No answer from the kernel for 10 s: it is busy or has stopped. Nothing here counts until it answers.";
const GONE = "No answer from the kernel: it has gone. Nothing here counts; run the cell again.";

// Messages are answered in order, so that an answer also settles what was asked before it.
function settle(form, answer) {
  const place = form.waiting.get(answer);
  if (place !== undefined) {
    for (const [id, earlier] of form.waiting) if (earlier <= place) form.waiting.delete(id);
    for (const [key, tick] of form.ticked) if (tick.id <= place) form.ticked.delete(key);
  }
  setText(form.silence, "");
  show(form.pending, form.pending.hidden === false && form.waiting.size > 0);
}

// -- the frame -----------------------------------------------------------------------------------

function build(model) {
  const form = { model, name: Math.random().toString(36).slice(2), asked: 0, waiting: new Map(), ticked: new Map() };
  form.view = null;
  form.title = node("p", { class: "ra-title" });
  form.summary = node("p", { class: "ra-summary" });
  form.notice = node("p", { class: "ra-notice" });
  form.error = node("p", { class: "ra-error", role: "alert" });
  form.silence = node("p", { class: "ra-silence", role: "alert" });
  form.pending = node("span", { class: "ra-pending", text: "waiting for the kernel…" });
  form.totals = node("span", { class: "ra-totals", role: "status" });
  show(form.pending, false);
  form.journal = node("p", { class: "ra-journal" });
  form.root = focusable("section", { class: "regaudit", "aria-label": "Review of a deletion", tabindex: "-1" });
  form.root.append(
    form.title, form.summary, form.notice, toolbar(form), table(form), pager(form),
    node("p", { class: "ra-sum" }, form.totals, form.pending),
    form.error, form.silence, choosePanel(form), reviewPanel(form), runPanel(form), undoPanel(form), form.journal,
  );
  return form;
}

function toolbar(form) {
  form.sendFilter = () => {
    clearTimeout(form.typing);
    form.typing = undefined;
    ask(form, { do: "filter", text: form.filter.value });
  };
  const typed = () => {
    clearTimeout(form.typing);
    form.typing = setTimeout(form.sendFilter, TYPING_MS);
  };
  form.filter = focusable("input", {
    type: "search", class: "ra-filter", "aria-label": "Filter the rows",
    placeholder: "Filter by repository, tag, digest, reason", on: { input: typed },
  });
  form.sections = ["rows", "refused"].map((section) => {
    return [section, button("", () => ask(form, { do: "section", section }), `ra-section-${section}`)];
  });
  form.selectAll = button("", () => ask(form, { do: "select_filtered" }), "ra-select-all");
  form.clear = button("Clear selection", () => ask(form, { do: "clear" }), "ra-clear");
  const group = node("div", { class: "ra-sections", role: "group", "aria-label": "Which rows" });
  group.append(...form.sections.map(([, choose]) => choose));
  return node("div", { class: "ra-toolbar" }, form.filter, group, node("span", { class: "ra-space" }), form.selectAll, form.clear);
}

function table(form) {
  form.caption = node("caption");
  form.heads = COLUMNS.map(([column, text]) => {
    const head = node("th", { scope: "col", class: `ra-${column}`, "aria-sort": "none" });
    head.append(button(text, () => ask(form, { do: "sort", ...nextSort(form.view, column) }), "ra-sort"));
    return head;
  });
  const tick = node("th", { scope: "col", class: "ra-tick" }, node("span", { class: "ra-unseen", text: "Selected" }));
  form.body = node("tbody");
  form.pool = [];
  form.empty = node("p", { class: "ra-empty", text: "No row matches." });
  form.table = node("table", {}, form.caption, node("thead", {}, node("tr", {}, tick, ...form.heads)), form.body);
  return node("div", { class: "ra-scroll" }, form.table, form.empty);
}

// Ascending, descending, and back to the order of the plan.
function nextSort(view, column) {
  if (view.column !== column) return { column, descending: false };
  return view.descending ? { column: "", descending: false } : { column, descending: true };
}

function pager(form) {
  const turn = (page) => () => ask(form, { do: "page", page: page(form.view) });
  form.first = button("First", turn(() => 0), "ra-first");
  form.back = button("Previous", turn((view) => view.page - 1), "ra-previous");
  form.next = button("Next", turn((view) => view.page + 1), "ra-next");
  form.last = button("Last", turn((view) => view.pages - 1), "ra-last");
  form.where = node("span", { class: "ra-where", role: "status" });
  return node("div", { class: "ra-pager", role: "group", "aria-label": "Pages" }, form.first, form.back, form.where, form.next, form.last);
}

function panel(name, label, ...children) {
  const heading = focusable("h4", { class: "ra-heading", tabindex: "-1", text: label });
  return node("div", { class: `ra-panel ra-panel-${name}`, role: "group", "aria-label": label }, heading, ...children);
}

function choosePanel(form) {
  form.review = button("Review deletion", () => ask(form, { do: "review" }), "ra-review ra-primary");
  form.choosePanel = node("div", { class: "ra-panel ra-panel-choose" }, form.review);
  return form.choosePanel;
}

function field(form, name, label, hint) {
  const input = focusable("input", { type: "text", class: `ra-${name}`, autocomplete: "off", spellcheck: "false" });
  form[name] = input;
  input.addEventListener("input", () => patchConfirm(form));
  return node("label", { class: "ra-field" }, node("span", { text: label }), input, node("small", { text: hint }));
}

function reviewPanel(form) {
  form.reviewTitle = node("p", { class: "ra-review-title" });
  form.reviewRefused = node("ul", { class: "ra-review-refused" });
  form.refusedNote = node("p", { class: "ra-warning", text: "Of the selected rows, these stay:" });
  form.phrase = node("code");
  const confirm = field(form, "typed", "Confirm", "");
  confirm.lastChild.append("type ", form.phrase, " exactly");
  // No <form>: the Enter key in a field must not be what deletes.
  const remove = () => ask(form, { do: "delete", by: form.by.value, reason: form.why.value, typed: form.typed.value });
  form.remove = button("Delete", remove, "ra-delete ra-danger");
  form.cancel = button("Back to the selection", () => ask(form, { do: "back" }), "ra-back");
  const fields = node("div", { class: "ra-confirm" },
    field(form, "by", "Approved by", "your name, kept in the journal"), field(form, "why", "Reason", "optional"), confirm,
    node("div", { class: "ra-buttons" }, form.remove, form.cancel));
  form.reviewPanel = panel("review", "Review the deletion", form.reviewTitle, form.refusedNote, form.reviewRefused, fields);
  return form.reviewPanel;
}

function confirmed(form) {
  const typed = form.typed.value.trim().replace(/\s+/g, " ").toLowerCase();
  return Boolean(form.view?.review) && typed === form.view.review.phrase && form.by.value.trim() !== "";
}

function patchConfirm(form) {
  enable(form.remove, confirmed(form));
}

function runPanel(form) {
  form.bar = node("progress", { "aria-label": "Progress" });
  form.progress = node("p", { class: "ra-progress", role: "status" });
  form.stop = button("Stop", () => ask(form, { do: "stop" }), "ra-stop");
  form.runPanel = panel("run", "Deletion", form.bar, form.progress, form.stop);
  return form.runPanel;
}

function undoPanel(form) {
  form.undo = button("Undo", () => ask(form, { do: "undo" }), "ra-undo");
  form.undoText = node("span", { class: "ra-undo-text" });
  form.sure = button("Yes, put back", () => ask(form, { do: "undo", sure: true }), "ra-undo-sure ra-primary");
  form.keep = button("No, leave it", () => ask(form, { do: "keep" }), "ra-undo-keep");
  form.undoPanel = node("div", { class: "ra-panel ra-panel-undo", role: "group", "aria-label": "Undo" });
  form.undoPanel.append(form.undo, form.undoText, form.sure, form.keep);
  return form.undoPanel;
}

// -- patching the view ---------------------------------------------------------------------------

function patch(form, view) {
  const before = document.activeElement;
  const focused = form.root.contains(before);
  const turned = form.view?.stage !== view.stage;
  form.view = view;
  form.root.dataset.stage = view.stage;
  form.root.dataset.section = view.section;
  patchTexts(form, view);
  patchToolbar(form, view);
  patchTable(form, view);
  patchPager(form, view);
  patchReview(form, view, turned);
  patchRun(form, view);
  patchUndo(form, view);
  if (focused && before.getClientRects().length === 0) landing(form, view).focus();
}

// Where the keyboard goes when what it was on has gone: without it, the next keys would be the notebook's.
function landing(form, view) {
  if (view.undo?.armed) return form.sure;
  const place = { choose: form.review, review: form.reviewPanel.firstChild, deleting: form.stop, undoing: form.stop };
  return place[view.stage] ?? form.runPanel.firstChild;
}

function patchTexts(form, view) {
  setText(form.title, `Review of ${view.registry}`);
  setText(form.summary, `${view.title}.`);
  show(form.summary, view.review === null);
  setText(form.notice, view.notice);
  show(form.notice, view.notice !== "");
  setText(form.error, view.error);
  setText(form.journal, `Journal: ${view.journal}`);
  const { rows, digests, tags, bytes } = view.totals;
  const sum = `${counted(rows, "row")} selected: ${counted(digests, "digest")} and ${counted(tags, "tag")} go, ${bytes} come back after garbage collection`;
  setText(form.totals, view.stage !== "choose" ? "" : rows ? sum : "Nothing is selected.");
}

function patchToolbar(form, view) {
  const choosing = view.stage === "choose";
  if (document.activeElement !== form.filter && !form.waiting.size && !form.typing) form.filter.value = view.filter;
  for (const [section, choose] of form.sections) {
    const name = section === "refused" ? "Refused" : choosing ? "Candidates" : "This deletion";
    setText(choose, `${name} ${number(view.counts[section])}`);
    choose.setAttribute("aria-pressed", String(view.section === section));
  }
  setText(form.selectAll, view.filter ? `Select all ${number(view.matching)} filtered` : `Select all ${number(view.matching)}`);
  show(form.selectAll, choosing && view.section === "rows");
  show(form.clear, choosing && view.section === "rows");
  enable(form.selectAll, view.matching > 0);
  enable(form.clear, view.totals.rows > 0);
  show(form.choosePanel, choosing);
  enable(form.review, view.totals.rows > 0);
}

function patchPager(form, view) {
  const first = view.page * view.page_size;
  const where = `${number(first + 1)} to ${number(first + view.rows.length)} of ${number(view.matching)}`;
  setText(form.where, view.matching ? where : "no rows");
  enable(form.first, view.page > 0);
  enable(form.back, view.page > 0);
  enable(form.next, view.page < view.pages - 1);
  enable(form.last, view.page < view.pages - 1);
  show(form.first.parentNode, view.pages > 1 || view.filter !== "");
}

function patchTable(form, view) {
  const refused = view.section === "refused";
  const what = refused ? "Refused candidates, which stay" : view.stage === "choose" ? "Candidates for deletion" : "What this deletion consists of";
  setText(form.caption, what);
  form.heads.forEach((head, place) => {
    const sorted = view.column === COLUMNS[place][0];
    head.setAttribute("aria-sort", sorted ? (view.descending ? "descending" : "ascending") : "none");
  });
  setText(form.heads[5].firstChild, refused ? "Why it stays" : "Reason");
  while (form.pool.length < view.rows.length) form.pool.push(makeRow(form));
  form.pool.forEach((line, place) => patchRow(form, line, view.rows[place]));
  show(form.empty, view.rows.length === 0);
}

function makeRow(form) {
  const line = { key: "", cells: {} };
  line.box = focusable("input", { type: "checkbox" });
  line.box.addEventListener("change", () => {
    line.root.classList.add("ra-waiting");
    ask(form, { do: "set", key: line.key, selected: line.box.checked });
  });
  for (const [column] of COLUMNS) line.cells[column] = node(column === "repository" ? "th" : "td", { class: `ra-${column}` });
  line.cells.repository.setAttribute("scope", "row");
  line.root = node("tr", {}, node("td", { class: "ra-tick" }, line.box), ...Object.values(line.cells));
  form.body.append(line.root);
  return line;
}

function patchRow(form, line, row) {
  show(line.root, row !== undefined);
  if (row === undefined) return;
  const tick = form.ticked.get(row.key);
  line.key = row.key;
  line.box.checked = tick ? tick.selected : row.selected;
  line.box.setAttribute("aria-label", `Select ${row.label}`);
  show(line.box, row.choosable);
  line.root.classList.toggle("ra-waiting", tick !== undefined);
  line.root.classList.toggle("ra-selected", line.box.checked && row.choosable);
  setText(line.cells.repository, row.repository);
  setText(line.cells.age, row.age);
  line.cells.age.title = row.created;
  setText(line.cells.size, row.size);
  fill(line.cells.digest, [row.digest, row.kind], digestParts);
  line.cells.digest.title = row.digest_full;
  fill(line.cells.tags, [row.key, row.tags, row.more_tags], () => tagParts(row));
  fill(line.cells.reason, [row.why, row.reason], () => twoLines(row.why || row.reason, row.why ? row.reason : ""));
  fill(line.cells.along, [row.key, row.along, row.with], () => alongParts(row));
  fill(line.cells.outcome, [row.outcome, row.detail], () => twoLines(row.outcome, row.detail));
}

// A cell of several nodes is made anew only when what it says has changed.
function fill(cell, content, make) {
  const mark = JSON.stringify(content);
  if (cell.contentMark === mark) return;
  cell.contentMark = mark;
  cell.replaceChildren(...make(content));
}

const digestParts = ([digest, kind]) => [node("code", { text: digest }), " ", node("small", { text: kind })];

function twoLines(first, second) {
  return [node("span", { text: first }), ...(second ? [node("small", { text: second })] : [])];
}

function tagParts(row) {
  const inline = row.tags.slice(0, TAGS_INLINE).map(chip);
  const rest = row.tags.slice(TAGS_INLINE).map(chip);
  if (rest.length === 0) return inline;
  if (row.more_tags) rest.push(node("span", { text: `and ${number(row.more_tags)} more` }));
  return [...inline, details(`+ ${number(rest.length + Math.max(0, row.more_tags - 1))} tags`, rest)];
}

function alongParts(row) {
  if (row.with) return [node("small", { text: row.with })];
  const { summary, rows, more } = row.along;
  if (rows.length === 0) return [];
  const listed = rows.map((text) => node("div", { text }));
  if (more) listed.push(node("div", { text: `and ${number(more)} more` }));
  return [details(summary, listed)];
}

function details(summary, children) {
  return node("details", {}, focusable("summary", { text: summary }), node("div", { class: "ra-listed" }, ...children));
}

function patchReview(form, view, turned) {
  show(form.reviewPanel, view.review !== null);
  if (view.review === null) return;
  if (turned) {
    form.typed.value = "";
    form.by.value ||= view.review.by;
  }
  setText(form.reviewTitle, `${view.review.title}.`);
  setText(form.phrase, view.review.phrase);
  const { refused, more_refused: more } = view.review;
  show(form.refusedNote, refused.length > 0);
  fill(form.reviewRefused, [refused, more], () => {
    const lines = more ? [...refused, `and ${number(more)} more, under Refused`] : refused;
    return lines.map((text) => node("li", { text }));
  });
  patchConfirm(form);
}

function patchRun(form, view) {
  const running = view.stage === "deleting" || view.stage === "undoing";
  show(form.runPanel, view.progress !== null);
  show(form.bar, running);
  show(form.stop, running);
  if (view.progress === null) return;
  const { done, total, stopping } = view.progress;
  form.bar.max = Math.max(1, total);
  form.bar.value = done;
  setText(form.runPanel.firstChild, { deleting: "Deleting", undoing: "Putting back", done: "Result" }[view.stage]);
  enable(form.stop, !stopping);
  setText(form.stop, stopping ? "Stopping…" : "Stop");
  setText(form.progress, running ? `${number(done)} of ${number(total)}` : resultText(view.progress));
}

function resultText({ deleted, restored, stopped, run }) {
  const parts = [`Deletion: ${deleted}${stopped ? ", stopped before the end" : ""}.`];
  if (restored) parts.push(`Undo: ${restored}.`);
  if (run) parts.push(`Run ${run}.`);
  return parts.join(" ");
}

function patchUndo(form, view) {
  show(form.undoPanel, view.undo !== null);
  if (view.undo === null) return;
  const { armed, count } = view.undo;
  show(form.undo, !armed);
  show(form.sure, armed);
  show(form.keep, armed);
  const question = `Put ${counted(count, "manifest")} and their tags back? This works until the registry collects its garbage.`;
  setText(form.undoText, armed ? question : "puts back what was deleted, until the registry collects its garbage");
}

// -- the widget ----------------------------------------------------------------------------------

function render({ model, el }) {
  const form = build(model);
  const onMessage = (message) => {
    if (message?.type !== "view") return;
    settle(form, message.answer);
    patch(form, message);
  };
  // While Python works, ask how it goes: it shows the last outcomes, and that the kernel lives.
  const poll = setInterval(() => {
    const running = form.view?.stage === "deleting" || form.view?.stage === "undoing";
    if (running && form.waiting.size === 0) ask(form, { do: "look" });
  }, POLL_MS);
  model.on("msg:custom", onMessage);
  el.append(form.root);
  ask(form, { do: "hello" });
  return () => {
    clearInterval(poll);
    model.off("msg:custom", onMessage);
  };
}

export default { render };
