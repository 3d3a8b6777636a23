"use strict";
(function () {
  const form = document.getElementById("filters");
  const shown = document.getElementById("shown");
  const rows = Array.from(document.querySelectorAll("table.verdicts tbody tr"));

  function matches(row) {
    const text = form.elements.text.value.trim().toLowerCase();
    return ["status", "group", "source"].every(function (name) {
      const wanted = form.elements[name].value;
      return wanted === "" || row.dataset[name] === wanted;
    }) && row.textContent.toLowerCase().includes(text);
  }

  function update() {
    let count = 0;
    for (const row of rows) {
      const visible = matches(row);
      count += visible ? 1 : 0;
      row.hidden = !visible;
      document.getElementById(row.dataset.anchor).hidden = !visible;
    }
    shown.textContent = count + " of " + rows.length + " claims";
  }

  form.hidden = false;
  form.addEventListener("input", update);
  // A reset changes the fields only after its event.
  form.addEventListener("reset", function () { setTimeout(update, 0); });
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  update();
})();
