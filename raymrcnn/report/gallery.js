(function () {
  "use strict";
  var root = document.documentElement;
  var slider = document.getElementById("least");
  var output = document.querySelector("output");
  var counted = document.getElementById("counted");
  var shapes = document.querySelectorAll(".found");
  function show() {
    var least = parseFloat(slider.value), count = 0;
    shapes.forEach(function (shape) {
      var seen = parseFloat(shape.getAttribute("data-score")) >= least;
      if (seen) { shape.removeAttribute("hidden"); count += 1; } else { shape.setAttribute("hidden", ""); }
    });
    output.textContent = least.toFixed(2);
    counted.textContent = count + " of " + shapes.length + " shown";
  }
  slider.addEventListener("input", show);
  document.querySelectorAll("input[data-shows]").forEach(function (box) {
    function turn() { root.classList.toggle("no-" + box.getAttribute("data-shows"), !box.checked); }
    box.addEventListener("change", turn);
    turn();
  });
  show();
})();
