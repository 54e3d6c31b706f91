(function () {
  "use strict";
  var root = document.documentElement;
  var choice = document.getElementById("category");
  var counted = document.getElementById("counted");
  var parts = document.querySelectorAll(".found");
  var cards = document.querySelectorAll(".shot");
  function show() {
    var wanted = choice.value, objects = 0, images = 0;
    parts.forEach(function (part) {
      var seen = !wanted || part.getAttribute("data-category") === wanted;
      if (seen) { part.removeAttribute("hidden"); } else { part.setAttribute("hidden", ""); }
      objects += seen && part.localName === "g" ? 1 : 0;
    });
    cards.forEach(function (card) {
      card.hidden = Boolean(wanted) && !card.querySelector("g.found:not([hidden])");
      images += card.hidden ? 0 : 1;
    });
    counted.textContent = objects + (objects === 1 ? " object in " : " objects in ") + images + (images === 1 ? " image" : " images");
  }
  choice.addEventListener("change", show);
  document.querySelectorAll("input[data-shows]").forEach(function (box) {
    function turn() { root.classList.toggle("no-" + box.getAttribute("data-shows"), !box.checked); }
    box.addEventListener("change", turn);
    turn();
  });
  show();
})();
