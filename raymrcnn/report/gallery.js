(function () {
  "use strict";
  var root = document.documentElement;
  var slider = document.getElementById("least");
  var output = document.querySelector("output");
  var counted = document.getElementById("counted");
  var parts = document.querySelectorAll(".found");
  var total = document.querySelectorAll("g.found").length;
  function show() {
    var least = parseFloat(slider.value), count = 0;
    parts.forEach(function (part) {
      var seen = parseFloat(part.getAttribute("data-score")) >= least;
      if (seen) { part.removeAttribute("hidden"); } else { part.setAttribute("hidden", ""); }
      count += seen && part.localName === "g" ? 1 : 0;
    });
    output.textContent = least.toFixed(2);
    counted.textContent = count + " of " + total + " shown";
  }
  slider.addEventListener("input", show);
  document.querySelectorAll("input[data-shows]").forEach(function (box) {
    function turn() { root.classList.toggle("no-" + box.getAttribute("data-shows"), !box.checked); }
    box.addEventListener("change", turn);
    turn();
  });
  show();
})();
