// The page side of the review form. It holds the rows in view and nothing else: every message from Python is
// the whole view, and is patched into nodes that stay, so that the keyboard focus stays too. Data becomes text
// nodes and attributes only, never markup.

const SILENCE_MS = 10_000;
const POLL_MS = 1_000;
const TYPING_MS = 150;
const PENDING_MS = 400;
const TAGS_INLINE = 4;

const COLUMNS = {
  repository: "Repository", tags: "Tags", outcome: "Outcome", digest: "Digest", kind: "Kind", created: "Created", age: "Age",
  size: "Size", frees: "Frees", reason: "Reason", along: "Goes along",
};
const FIELDS = {
  repository: ["Repository", "a part of it, or team/**"],
  age: ["Age", "at least 180D, or <30D"],
  size: ["Size", "at least 10 MiB, or <1 MiB"],
  reason: ["Reason", "a part of it"],
};

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
  const press = (event) => event.currentTarget.getAttribute("aria-disabled") !== "true" && onClick(event);
  return focusable("button", { type: "button", class: `ra-button ${name}`, text, on: { click: press } });
}

// A text that did not change is left alone: a screen reader would say it again.
function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function setTitled(target, text) {
  setText(target, text);
  target.title = text;
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
const chip = (text) => node("span", { class: "ra-tag", text, title: text });
const running = (view) => view?.stage === "deleting" || view?.stage === "undoing";

// -- asking Python -------------------------------------------------------------------------------

const SILENT = "No answer from the kernel for 10 s: it is busy or has stopped. Nothing here counts until it answers.";
const GONE = "No answer from the kernel: it has gone. Nothing here counts; run the cell again.";

function ask(form, message) {
  // What was typed last goes first: "select all" must not act on another filter than the one on the screen.
  if (form.typing) form.sendFilter();
  const id = `${form.name}-${++form.asked}`;
  form.waiting.set(id, form.asked);
  if (message.do === "set") form.ticked.set(message.key, { id: form.asked, selected: message.selected });
  setTimeout(() => form.waiting.has(id) && setText(form.silence, SILENT), SILENCE_MS);
  setTimeout(() => show(form.pending, form.waiting.size > 0 && !form.silence.textContent), PENDING_MS);
  try {
    form.model.send({ ...message, id, generation: form.view?.generation ?? 0 });
  } catch {
    setText(form.silence, GONE);
  }
}

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
  form.error = node("p", { class: "ra-error", role: "alert" });
  form.silence = node("p", { class: "ra-silence", role: "alert" });
  form.pending = node("span", { class: "ra-pending", text: "waiting for the kernel…" });
  form.totals = node("span", { class: "ra-totals", role: "status" });
  show(form.pending, false);
  form.journal = node("p", { class: "ra-journal" });
  form.root = focusable("section", { class: "regaudit", "aria-label": "Review of a deletion", tabindex: "-1" });
  form.root.append(
    form.title, form.summary, noticePanel(form), toolbar(form), fieldsPanel(form), selectionBar(form), table(form), pager(form),
    form.error, form.silence, detailsPanel(form), choosePanel(form), reviewPanel(form), runPanel(form), undoPanel(form), form.journal,
  );
  form.root.addEventListener("keydown", (event) => event.key === "Escape" && closeDetails(form));
  return form;
}

function noticePanel(form) {
  form.noticeText = node("span");
  form.goOn = button("", () => ask(form, { do: "continue" }), "ra-continue");
  form.notice = node("div", { class: "ra-notice", role: "note" }, form.noticeText, form.goOn);
  return form.notice;
}

function toolbar(form) {
  form.sendFilter = () => {
    clearTimeout(form.typing);
    form.typing = undefined;
    const typed = Object.fromEntries(Object.entries(form.fields).map(([name, field]) => [name, field.value]));
    ask(form, { do: "filter", text: form.filter.value, regex: form.regex.getAttribute("aria-pressed") === "true", ...typed });
  };
  form.onTyped = () => {
    clearTimeout(form.typing);
    form.typing = setTimeout(form.sendFilter, TYPING_MS);
  };
  form.filter = focusable("input", { type: "search", class: "ra-filter", "aria-label": "Filter the rows", on: { input: form.onTyped } });
  form.regex = button(".*", () => {
    form.regex.setAttribute("aria-pressed", String(form.regex.getAttribute("aria-pressed") !== "true"));
    form.sendFilter();
  }, "ra-regex");
  form.regex.setAttribute("aria-label", "The filter is a regular expression");
  form.regex.title = "Read the filter as a regular expression (RE2)";
  form.more = button("More filters", () => {
    show(form.fieldsPanel, form.fieldsPanel.hidden);
    form.more.setAttribute("aria-expanded", String(!form.fieldsPanel.hidden));
  }, "ra-more-filters");
  form.more.setAttribute("aria-expanded", "false");
  form.sections = ["rows", "refused"].map((section) => {
    return [section, button("", () => ask(form, { do: "section", section }), `ra-section-${section}`)];
  });
  const group = node("div", { class: "ra-sections", role: "group", "aria-label": "Which rows" });
  group.append(...form.sections.map(([, choose]) => choose));
  const search = node("div", { class: "ra-search", role: "search" }, form.filter, form.regex, form.more);
  return node("div", { class: "ra-toolbar" },
    search, group, columnMenu(form));
}

function selectionBar(form) {
  form.selectAll = button("", () => ask(form, { do: "select_filtered" }), "ra-select-all");
  form.clear = button("Clear", () => ask(form, { do: "clear" }), "ra-clear");
  form.clear.setAttribute("aria-label", "Clear the selection");
  form.selection = node("div", { class: "ra-toolbar" }, form.selectAll, form.clear, form.totals, form.pending);
  return form.selection;
}

function columnMenu(form) {
  form.choices = Object.entries(COLUMNS).filter(([name]) => name !== "outcome").map(([name, text]) => {
    const box = focusable("input", { type: "checkbox", name, on: { change: () => ask(form, { do: "columns", columns: chosen() }) } });
    box.disabled = name === "tags";
    return [box, node("label", {}, box, text)];
  });
  // The column of outcomes comes and goes by itself.
  const chosen = () => [...form.choices.filter(([box]) => box.checked).map(([box]) => box.name), "outcome"];
  form.alongBox = focusable("input", { type: "checkbox", class: "ra-along-box" });
  form.alongBox.addEventListener("change", () => ask(form, { do: "along", shown: form.alongBox.checked }));
  const along = node("label", { class: "ra-along-choice" }, form.alongBox, "Rows that go along");
  const menu = node("div", { class: "ra-menu", role: "group", "aria-label": "Columns" }, ...form.choices.map(([, label]) => label), along);
  return node("details", { class: "ra-columns" }, focusable("summary", { class: "ra-button", text: "Columns" }), menu);
}

function fieldsPanel(form) {
  form.fields = {};
  form.names = node("datalist", { id: `${form.name}-names` });
  const labels = Object.entries(FIELDS).map(([name, [text, hint]]) => {
    const field = focusable("input", { type: "text", class: `ra-field-${name}`, placeholder: hint, spellcheck: "false", on: { input: form.onTyped } });
    form.fields[name] = field;
    return node("label", {}, node("span", { text }), field);
  });
  form.fields.repository.setAttribute("list", form.names.id);
  const reset = button("Reset filters", () => {
    for (const field of [form.filter, ...Object.values(form.fields)]) field.value = "";
    form.sendFilter();
  }, "ra-reset");
  form.fieldsPanel = node("div", { class: "ra-fields", role: "group", "aria-label": "More filters" }, ...labels, reset, form.names);
  show(form.fieldsPanel, false);
  form.filterError = node("p", { class: "ra-error ra-filter-error", role: "alert" });
  return node("div", {}, form.fieldsPanel, form.filterError);
}

function table(form) {
  form.caption = node("caption");
  form.heads = Object.entries(COLUMNS).map(([column, text]) => {
    const head = node("th", { scope: "col", class: `ra-${column}`, "aria-sort": "none" });
    head.append(button(text, () => ask(form, { do: "sort", ...nextSort(form.view, column) }), "ra-sort"));
    return [column, head];
  });
  const unseen = (text, name) => node("th", { scope: "col", class: name }, node("span", { class: "ra-unseen", text }));
  form.tickHead = unseen("Selected", "ra-tick");
  form.body = node("tbody", { on: { keydown: (event) => onKey(form, event) } });
  form.pool = [];
  form.empty = node("p", { class: "ra-empty", text: "No row matches." });
  const heads = node("tr", {}, form.tickHead, unseen("Details", "ra-info"), ...form.heads.map(([, head]) => head));
  form.table = node("table", {}, form.caption, node("thead", {}, heads), form.body);
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
  // Said above the table to a screen reader already.
  form.totalsAgain = node("span", { class: "ra-soft", "aria-hidden": "true" });
  form.choosePanel = node("div", { class: "ra-panel ra-panel-choose" }, form.review, form.totalsAgain);
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
  form.advice = node("p", { class: "ra-advice" });
  form.pause = button("Pause", () => ask(form, { do: form.view.progress.paused ? "resume" : "pause" }), "ra-pause");
  form.stop = button("Stop", () => ask(form, { do: "stop" }), "ra-stop");
  form.file = button("Download the outcomes (CSV)", () => ask(form, { do: "csv" }), "ra-file");
  form.goOnDone = button("", () => ask(form, { do: "continue" }), "ra-continue");
  const buttons = node("div", { class: "ra-buttons" }, form.pause, form.stop, form.file, form.goOnDone);
  form.runPanel = panel("run", "Deletion", form.bar, form.progress, form.advice, buttons);
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

// -- ticks and keys ------------------------------------------------------------------------------

function tick(form, line, ranged) {
  line.root.classList.add("ra-waiting");
  const selected = line.box.checked;
  if (ranged && form.anchor && form.anchor !== line.key) ask(form, { do: "set_range", key: form.anchor, to: line.key, selected });
  else ask(form, { do: "set", key: line.key, selected });
  form.anchor = line.key;
}

const target = (line) => (line.box.hidden ? line.info : line.box);

// Up and down go from row to row, and on to the next page; with Shift, they select on the way.
function onKey(form, event) {
  const line = form.pool.find(({ root }) => root.contains(event.target));
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  const turn = { PageUp: -1, PageDown: 1 }[event.key];
  if (!line || event.altKey) return;
  if (step) move(form, line, step, event.shiftKey);
  else if (turn) turnPage(form, turn, "first");
  else if (event.key === "Home" || event.key === "End") target(linesOf(form).at(event.key === "Home" ? 0 : -1)).focus();
  else if (event.key === " " && event.shiftKey && event.target === line.box) {
    line.box.checked = !line.box.checked;
    tick(form, line, true);
  } else if (event.key === "Enter" && event.target === line.box) ask(form, { do: "details", key: line.key });
  else if (event.key === "a" && (event.ctrlKey || event.metaKey) && !form.selectAll.hidden) ask(form, { do: "select_filtered" });
  else return;
  event.preventDefault();
  event.stopPropagation();
}

const linesOf = (form) => form.pool.filter(({ root }) => !root.hidden);

function move(form, line, step, ranged) {
  const lines = linesOf(form);
  const next = lines[lines.indexOf(line) + step];
  if (!next) return turnPage(form, step, step > 0 ? "first" : "last");
  target(next).focus();
  if (!ranged || next.box.hidden || line.box.hidden) return;
  form.anchor ??= line.key;
  ask(form, { do: "set_range", key: form.anchor, to: next.key, selected: true });
}

function turnPage(form, step, land) {
  const page = form.view.page + step;
  if (page < 0 || page >= form.view.pages) return;
  form.land = land;
  ask(form, { do: "page", page });
}

// -- patching the view ---------------------------------------------------------------------------

function patch(form, view) {
  const before = document.activeElement;
  const focused = form.root.contains(before);
  const turned = form.view?.stage !== view.stage;
  form.view = view;
  form.root.dataset.stage = view.stage;
  patchTexts(form, view);
  patchToolbar(form, view);
  patchTable(form, view);
  patchPager(form, view);
  patchReview(form, view, turned);
  patchRun(form, view);
  patchUndo(form, view);
  if (turned) closeDetails(form);
  if (form.land && view.rows.length) target(linesOf(form).at(form.land === "first" ? 0 : -1)).focus();
  else if (focused && before.getClientRects().length === 0) landing(form, view).focus();
  form.land = undefined;
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
  setText(form.noticeText, view.notice);
  show(form.notice, view.notice !== "");
  setText(form.goOn, view.continue);
  show(form.goOn, view.continue !== "" && view.stage === "choose");
  setText(form.error, view.error);
  setTitled(form.journal, `Journal: ${view.journal}`);
  const { rows, digests, tags, bytes } = view.totals;
  const sum = `${counted(rows, "row")} selected: ${counted(digests, "digest")} and ${counted(tags, "tag")} go, ${bytes} come back after garbage collection`;
  const total = view.stage !== "choose" ? "" : rows ? sum : "Nothing is selected.";
  setText(form.totals, total);
  setText(form.totalsAgain, total);
  show(form.totals, total !== "");
}

function patchToolbar(form, view) {
  const choosing = view.stage === "choose";
  patchFilter(form, view);
  for (const [section, choose] of form.sections) {
    const name = section === "refused" ? "Refused" : choosing ? "Candidates" : "This deletion";
    setText(choose, `${name} ${number(view.counts[section])}`);
    choose.setAttribute("aria-pressed", String(view.section === section));
  }
  const among = choosing && view.section === "rows";
  setText(form.selectAll, `Select all ${number(view.matching)}${view.filtered ? " filtered" : ""}`);
  show(form.selectAll, among);
  show(form.clear, among);
  enable(form.selectAll, view.matching > 0);
  enable(form.clear, view.totals.rows > 0);
  show(form.choosePanel, choosing);
  enable(form.review, view.totals.rows > 0);
  for (const [box] of form.choices) box.checked = view.columns.includes(box.name);
  form.alongBox.checked = view.along;
  show(form.alongBox.parentNode, view.any_along);
}

// What somebody is typing is left alone until it was sent and answered.
function patchFilter(form, view) {
  const { text, regex, ...fields } = view.filter;
  const busy = form.waiting.size > 0 || Boolean(form.typing);
  const put = (input, value) => !busy && document.activeElement !== input && input.value !== value && (input.value = value);
  put(form.filter, text);
  for (const [name, input] of Object.entries(form.fields)) put(input, fields[name]);
  if (!busy) form.regex.setAttribute("aria-pressed", String(regex));
  form.filter.placeholder = regex ? "Regular expression, as ^team/.*:v[0-9]+$" : "Filter by name, digest, reason";
  const used = Object.values(fields).filter(Boolean).length;
  setText(form.more, used ? `More filters (${used})` : "More filters");
  setText(form.filterError, view.filter_error);
  form.filter.setAttribute("aria-invalid", String(view.filter_error !== ""));
  if (view.names) form.names.replaceChildren(...view.names.map((value) => node("option", { value })));
}

function patchPager(form, view) {
  const first = view.page * view.page_size;
  const where = `${number(first + 1)} to ${number(first + view.groups)} of ${number(view.matching)}`;
  setText(form.where, view.matching ? where : "no rows");
  enable(form.first, view.page > 0);
  enable(form.back, view.page > 0);
  enable(form.next, view.page < view.pages - 1);
  enable(form.last, view.page < view.pages - 1);
  show(form.first.parentNode, view.pages > 1 || view.filtered);
}

// The columns that a person chose, less those that have nothing to say just now.
function visible(view) {
  const without = new Set(view.section === "refused" ? ["along", "frees", "outcome"] : []);
  if (view.stage === "choose" || view.stage === "review") without.add("outcome");
  if (!view.any_along) without.add("along");
  return new Set(view.columns.filter((name) => !without.has(name)));
}

function patchTable(form, view) {
  const refused = view.section === "refused";
  const what = refused ? "Refused candidates, which stay" : view.stage === "choose" ? "Candidates for deletion" : "What this deletion consists of";
  const columns = visible(view);
  setText(form.caption, what);
  show(form.tickHead, view.stage === "choose" && !refused);
  for (const [column, head] of form.heads) {
    head.setAttribute("aria-sort", view.column !== column ? "none" : view.descending ? "descending" : "ascending");
    show(head, columns.has(column));
    if (column === "reason") setText(head.firstChild, refused ? "Why it stays" : "Reason");
  }
  while (form.pool.length < view.rows.length) form.pool.push(makeRow(form));
  form.pool.forEach((line, place) => patchRow(form, line, view.rows[place], columns));
  markGroups(form);
  show(form.empty, view.rows.length === 0);
}

function makeRow(form) {
  const line = { key: "", cells: {} };
  line.box = focusable("input", { type: "checkbox", on: { click: (event) => tick(form, line, event.shiftKey) } });
  line.info = button("i", () => ask(form, { do: "details", key: line.key }), "ra-info-button");
  for (const column of Object.keys(COLUMNS)) line.cells[column] = node(column === "tags" ? "th" : "td", { class: `ra-${column}` });
  line.cells.tags.setAttribute("scope", "row");
  line.tick = node("td", { class: "ra-tick" }, line.box);
  line.root = node("tr", {}, line.tick, node("td", { class: "ra-info" }, line.info), ...Object.values(line.cells));
  form.body.append(line.root);
  return line;
}

function patchRow(form, line, row, columns) {
  show(line.root, row !== undefined);
  if (row === undefined) return;
  const { cells } = line;
  patchTick(form, line, row);
  for (const [column, cell] of Object.entries(cells)) show(cell, columns.has(column));
  line.root.dataset.depth = row.depth;
  fill(cells.repository, [row.depth, row.repository], () => (row.depth ? [] : [node("div", { title: row.repository }, ...breakable(row.repository))]));
  for (const column of ["kind", "size", "frees"]) setText(cells[column], row[column]);
  setText(cells.created, row.created.replace("T", " ").replace("Z", " UTC"));
  setText(cells.age, row.age);
  cells.age.title = row.created;
  fill(cells.digest, [row.digest], () => [node("code", { text: row.digest })]);
  cells.digest.title = row.digest_full;
  fill(cells.tags, [row.key, row.role, row.tags, row.more_tags], () => tagParts(row));
  fill(cells.reason, [row.why, row.reason], () => twoLines(row.why || row.reason, row.why ? row.reason : ""));
  patchAlong(form, cells.along, row);
  fill(cells.outcome, [row.outcome, row.detail], () => twoLines(row.outcome, row.detail));
}

// What goes along with a ticked row goes too, and looks like it.
function markGroups(form) {
  let ticked = false;
  for (const { root, box } of linesOf(form)) {
    if (root.dataset.depth === "0") ticked = box.checked && !box.hidden;
    root.classList.toggle("ra-selected", ticked);
  }
}

function patchTick(form, line, row) {
  const ticked = form.ticked.get(row.key);
  line.key = row.key;
  line.box.checked = ticked ? ticked.selected : row.selected;
  line.box.setAttribute("aria-label", `Select ${row.label}`);
  line.info.setAttribute("aria-label", `Details of ${row.label}`);
  show(line.box, row.choosable);
  show(line.tick, !form.tickHead.hidden);
  line.root.classList.toggle("ra-waiting", ticked !== undefined);
}

// A cell of several nodes is made anew only when what it says has changed.
function fill(cell, content, make) {
  const mark = JSON.stringify(content);
  if (cell.contentMark === mark) return;
  cell.contentMark = mark;
  cell.replaceChildren(...make(content));
}

function twoLines(first, second) {
  return [node("span", { text: first, title: first }), ...(second ? [node("small", { text: second, title: second })] : [])];
}

// A long name breaks at its slashes.
const breakable = (name) => name.split(/(?<=\/)/).flatMap((part) => [part, node("wbr")]);

function tagParts(row) {
  const inline = row.tags.slice(0, TAGS_INLINE).map(chip);
  const rest = row.tags.slice(TAGS_INLINE).map(chip);
  if (row.role) inline.unshift(node("span", { class: "ra-role", text: row.role }));
  if (rest.length === 0) return inline.length ? inline : [node("small", { text: "no tag" })];
  if (row.more_tags) rest.push(node("span", { text: `and ${number(row.more_tags)} more` }));
  return [...inline, details(`+ ${number(rest.length + Math.max(0, row.more_tags - 1))} tags`, rest)];
}

// One button for each row, patched: pressing it must not lose the focus that is on it.
function patchAlong(form, cell, row) {
  cell.button ??= cell.appendChild(button("", () => ask(form, cell.message), "ra-open"));
  const text = row.more ? `and ${number(row.more)} more` : row.along;
  setText(cell.button, text);
  show(cell.button, text !== "");
  if (row.more) cell.button.removeAttribute("aria-expanded");
  else cell.button.setAttribute("aria-expanded", String(row.opened));
  cell.message = row.more ? { do: "open", key: row.group, whole: true } : { do: "open", key: row.key };
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
  show(form.reviewRefused, refused.length > 0);
  fill(form.reviewRefused, [refused, more], () => {
    const lines = more ? [...refused, `and ${number(more)} more, under Refused`] : refused;
    return lines.map((text) => node("li", { text }));
  });
  patchConfirm(form);
}

function patchRun(form, view) {
  const atWork = running(view);
  show(form.runPanel, view.progress !== null);
  for (const part of [form.bar, form.pause, form.stop]) show(part, atWork);
  if (view.progress === null) return;
  const { done, total, stopping, paused, advice, file } = view.progress;
  form.bar.max = Math.max(1, total);
  form.bar.value = done;
  setText(form.runPanel.firstChild, { deleting: "Deleting", undoing: "Putting back", done: "Result" }[view.stage]);
  enable(form.stop, !stopping);
  enable(form.pause, !stopping);
  setText(form.stop, stopping ? "Stopping…" : "Stop");
  setText(form.pause, paused ? "Resume" : "Pause");
  const held = paused && !stopping ? ", paused: the row that was under way is finished, and no other is begun" : "";
  setText(form.progress, atWork ? `${number(done)} of ${number(total)}${held}` : resultText(view.progress));
  setText(form.advice, advice && advice[0].toUpperCase() + advice.slice(1));
  show(form.advice, advice !== "");
  show(form.file, file);
  setText(form.goOnDone, view.continue);
  show(form.goOnDone, view.continue !== "");
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
  const { armed, count, run } = view.undo;
  show(form.undo, !armed);
  show(form.sure, armed);
  show(form.keep, armed);
  const question = `Put ${counted(count, "manifest")} of run ${run} and their tags back? This works until the registry collects its garbage.`;
  setText(form.undoText, armed ? question : `puts back what run ${run} deleted, until the registry collects its garbage`);
}

// -- one image -----------------------------------------------------------------------------------

const DIGEST = /^sha(256|512):[0-9a-f]{64,128}$/;
const OPEN_AT_FIRST = new Set(["labels", "layers", "platforms", "timeline"]);
const NUMBERS = new Set(["position", "size", "content", "manifest count", "repository count"]);

function detailsPanel(form) {
  form.detailsTitle = focusable("h4", { class: "ra-heading", tabindex: "-1" });
  form.detailsBack = button("Back", () => ask(form, { do: "details", key: form.detailed }), "ra-details-back");
  const close = button("Close", () => closeDetails(form), "ra-details-close");
  form.detailsBody = node("div", { class: "ra-details-body" });
  const head = node("div", { class: "ra-details-head" }, form.detailsTitle, form.detailsBack, close);
  form.details = node("section", { class: "ra-panel ra-details", "aria-label": "Details" }, head, form.detailsBody);
  show(form.details, false);
  return form.details;
}

function showDetails(form, image) {
  form.detailed = image.key;
  setTitled(form.detailsTitle, image.title);
  show(form.detailsBack, image.inner);
  const facts = image.facts.flatMap(([name, value]) => [node("dt", { text: name }), node("dd", { text: value })]);
  const sections = image.sections.map((section) => imageSection(form, image.key, section));
  form.detailsBody.replaceChildren(node("dl", {}, ...facts), ...sections);
  show(form.details, true);
  form.detailsTitle.focus({ preventScroll: true });
  form.details.scrollIntoView({ block: "nearest" });
}

function closeDetails(form) {
  if (form.details.hidden) return;
  const line = linesOf(form).find(({ key }) => key === form.detailed);
  const inside = form.details.contains(document.activeElement);
  show(form.details, false);
  form.detailsBody.replaceChildren();
  if (inside) (line ? target(line) : form.filter).focus();
}

function imageSection(form, key, { name, headings, rows, more }) {
  const linked = name === "platforms" || name === "referrers" ? headings.indexOf("digest") : -1;
  const className = (place) => (NUMBERS.has(headings[place]) ? "ra-number" : "");
  const cells = (row) => row.map((text, place) => node("td", { class: className(place) }, place === linked ? link(form, key, text) : cellText(text)));
  const head = node("tr", {}, ...headings.map((text, place) => node("th", { scope: "col", class: className(place), text })));
  const listed = node("table", {}, node("thead", {}, head), node("tbody", {}, ...rows.map((row) => node("tr", {}, ...cells(row)))));
  const parts = [node("div", { class: "ra-scroll" }, listed), ...(more ? [node("p", { text: `and ${number(more)} more` })] : [])];
  const section = node("details", {}, focusable("summary", { text: `${name} (${number(rows.length + more)})` }), ...parts);
  section.open = OPEN_AT_FIRST.has(name);
  return section;
}

const shortened = (text) => (DIGEST.test(text) ? text.slice(0, 19) : text);
const cellText = (text) => (DIGEST.test(text) ? node("code", { text: shortened(text), title: text }) : node("span", { text }));

function link(form, key, digest) {
  const made = button(shortened(digest), () => ask(form, { do: "details", key, digest }), "ra-link");
  made.title = digest;
  return made;
}

function saveFile({ name, media_type: type }, buffers) {
  const url = URL.createObjectURL(new Blob(buffers, { type }));
  node("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), POLL_MS);
}

// -- the widget ----------------------------------------------------------------------------------

function render({ model, el }) {
  const form = build(model);
  const onMessage = (message, buffers) => {
    // The same form may be on the page twice: only the one that asked opens a pane or saves a file.
    const mine = message?.answer?.startsWith(form.name);
    if (message?.type === "details" && mine) showDetails(form, message);
    if (message?.type === "file" && mine) saveFile(message, buffers);
    if (message?.type !== "view") return;
    settle(form, message.answer);
    patch(form, message);
  };
  // While Python works, ask how it goes: it shows the last outcomes, and that the kernel lives.
  const poll = setInterval(() => {
    if (running(form.view) && form.waiting.size === 0) ask(form, { do: "look" });
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
