"use strict";
// Rows are hidden and shown, and text is set; nothing is ever parsed as HTML.
for (const section of document.querySelectorAll("section.table")) {
  const rows = [...section.querySelectorAll("tbody tr")];
  const texts = rows.map((row) => [...row.cells].map((cell) => `${cell.textContent} ${cell.title}`).join(" ").toLowerCase());
  const find = section.querySelector(".find");
  const [box, count] = [find.querySelector("input"), find.querySelector("output")];
  find.hidden = false;
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, place) => {
      row.hidden = !words.every((word) => texts[place].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });
}
