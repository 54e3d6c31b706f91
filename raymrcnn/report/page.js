(function () {
  "use strict";
  var root = document.documentElement;
  root.classList.add("js");

  // Theme: the system's, until a choice is made.
  var button = document.getElementById("theme");
  function remembered() {
    try { return localStorage.getItem("raymrcnn-theme"); } catch (e) { return null; }
  }
  function isDark() {
    var set = root.getAttribute("data-theme");
    if (set) { return set === "dark"; }
    return matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function show() {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", "Switch to the " + (isDark() ? "light" : "dark") + " theme");
  }
  if (location.hash === "#dark" || location.hash === "#light") {
    root.setAttribute("data-theme", location.hash.slice(1));
  } else if (remembered()) {
    root.setAttribute("data-theme", remembered() === "dark" ? "dark" : "light");
  }
  button.addEventListener("click", function () {
    var next = isDark() ? "light" : "dark";
    root.setAttribute("data-theme", next);
    try { localStorage.setItem("raymrcnn-theme", next); } catch (e) { /* not kept */ }
    show();
  });
  show();

  // Tables: sort by a column, by the number in data-v or else by the text.
  function value(row, column) {
    var cell = row.cells[column];
    var number = cell.getAttribute("data-v");
    return number === null ? cell.textContent.trim().toLowerCase() : parseFloat(number);
  }
  document.querySelectorAll("table.sortable").forEach(function (table) {
    var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      var control = head.querySelector("button");
      if (!control) { return; }
      control.addEventListener("click", function () {
        var now = head.getAttribute("aria-sort");
        var first = head.hasAttribute("data-up") ? "ascending" : "descending";
        var next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
        var sign = next === "ascending" ? 1 : -1;
        heads.forEach(function (other) {
          if (other.hasAttribute("aria-sort")) { other.setAttribute("aria-sort", "none"); }
        });
        head.setAttribute("aria-sort", next);
        var body = table.tBodies[0];
        var rows = Array.prototype.slice.call(body.rows);
        rows.sort(function (a, b) {
          var x = value(a, column), y = value(b, column);
          return x < y ? -sign : x > y ? sign : 0;
        });
        rows.forEach(function (row) { body.appendChild(row); });
      });
    });
  });

  // Filter the rows of a table by the words of their first cell.
  document.querySelectorAll("input[data-filters]").forEach(function (input) {
    var table = document.getElementById(input.getAttribute("data-filters"));
    var shown = document.getElementById(input.getAttribute("aria-describedby"));
    input.addEventListener("input", function () {
      var word = input.value.trim().toLowerCase(), count = 0;
      Array.prototype.forEach.call(table.tBodies[0].rows, function (row) {
        row.hidden = row.cells[0].textContent.toLowerCase().indexOf(word) < 0;
        count += row.hidden ? 0 : 1;
      });
      shown.textContent = count + " of " + table.tBodies[0].rows.length;
    });
  });

  // Enlarge one image card to the whole width.
  document.querySelectorAll("button.zoom").forEach(function (zoom) {
    zoom.addEventListener("click", function () {
      var wide = zoom.closest(".shot").classList.toggle("wide");
      zoom.setAttribute("aria-pressed", String(wide));
    });
  });

  // Paper cannot unfold.
  var folded = [];
  addEventListener("beforeprint", function () {
    folded = Array.prototype.slice.call(document.querySelectorAll("details:not([open])"));
    folded.forEach(function (part) { part.open = true; });
  });
  addEventListener("afterprint", function () {
    folded.forEach(function (part) { part.open = false; });
  });

  // Copy a command.
  document.querySelectorAll("button.copy").forEach(function (button) {
    button.addEventListener("click", function () {
      var code = button.parentNode.querySelector("code");
      getSelection().selectAllChildren(code);
      function done(word) { button.textContent = word; setTimeout(function () { button.textContent = "Copy"; }, 2000); }
      if (!navigator.clipboard) { done("Selected"); return; }
      navigator.clipboard.writeText(code.textContent).then(
        function () { done("Copied"); }, function () { done("Selected"); });
    });
  });
})();
