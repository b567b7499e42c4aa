"use strict";
// Rows are hidden, shown and put in order, and text is set; nothing is ever parsed as HTML.
const words = new Intl.Collator(undefined, { numeric: true });

function search(section, rows) {
  const texts = rows.map((row) => [...row.cells].map((cell) => `${cell.textContent} ${cell.title}`).join(" ").toLowerCase());
  const find = section.querySelector(".find");
  const [box, count] = [find.querySelector("input"), find.querySelector("output")];
  find.hidden = false;
  box.addEventListener("input", () => {
    const wanted = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, place) => {
      row.hidden = !wanted.every((word) => texts[place].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = wanted.length ? `${shown} of ${rows.length} rows` : "";
  });
}

// What is not known comes last, in whichever order.
function compare(column, sign) {
  return (one, other) => {
    const [a, b] = [one.cells[column], other.cells[column]];
    const [known, alsoKnown] = [a.textContent !== "", b.textContent !== ""];
    if (!known || !alsoKnown) return alsoKnown - known;
    const order = "by" in a.dataset ? Number(a.dataset.by) - Number(b.dataset.by) : words.compare(a.textContent, b.textContent);
    return sign * order;
  };
}

function sorting(section, rows) {
  const [heads, body] = [[...section.querySelectorAll("th")], section.querySelector("tbody")];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      // Numbers and times from the largest first, which is what is looked for; names from A.
      const first = rows.some((row) => "by" in row.cells[column].dataset) ? "descending" : "ascending";
      const next = before === null ? first : before === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", next);
      body.append(...[...rows].sort(compare(column, next === "ascending" ? 1 : -1)));
    });
  });
}

for (const section of document.querySelectorAll("section.table")) {
  const rows = [...section.querySelectorAll("tbody tr")];
  search(section, rows);
  sorting(section, rows);
}
