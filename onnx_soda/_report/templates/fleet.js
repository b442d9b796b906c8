
"use strict";
(() => {
  const size = 100;
  const find = (id) => document.getElementById(id);
  const told = (rows) => rows.length.toLocaleString("en");
  const body = find("models").tBodies[0];
  const all = Array.from(body.rows);
  const texts = all.map((row) => row.textContent.toLowerCase());
  const number = (row, column) => parseFloat(row.cells[column].textContent.replace(/,/g, "")) || 0;
  let shown = all, page = 0;

  const show = () => {
    const first = page * size, last = Math.min(first + size, shown.length);
    body.replaceChildren(...shown.slice(first, last));
    find("told").textContent = shown.length
      ? `Models ${first + 1} to ${last} of ${told(shown)}, ${told(all)} in all.`
      : `No model fits; ${told(all)} in all.`;
    find("before").disabled = page === 0;
    find("after").disabled = last >= shown.length;
  };
  const choose = () => {
    const words = find("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdict = find("verdict").value, task = find("task").value, order = find("order").value;
    shown = all.filter((row, place) =>
      (!verdict || row.dataset.verdict === verdict) &&
      (!task || row.dataset.task === task) &&
      words.every((word) => texts[place].includes(word)));
    if (order === "model") {
      shown.sort((a, b) => a.cells[0].textContent.localeCompare(b.cells[0].textContent));
    } else if (order) {
      shown.sort((a, b) => number(b, Number(order)) - number(a, Number(order)));
    }
    page = 0;
    show();
  };
  const turn = (by) => () => { page += by; show(); find("filters").scrollIntoView(); };

  for (const id of ["words", "verdict", "task", "order"]) find(id).addEventListener("input", choose);
  find("before").addEventListener("click", turn(-1));
  find("after").addEventListener("click", turn(1));
  find("filters").hidden = false;
  choose();
})();
