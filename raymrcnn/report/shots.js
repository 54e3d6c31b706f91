(function () {
  "use strict";
  var root = document.documentElement;
  function all(where, what) { return Array.prototype.slice.call(where.querySelectorAll(what)); }
  function score(part, name) { return parseFloat(part.getAttribute(name)); }
  function numbers(card, name) {
    return (card.getAttribute(name) || "").split(" ").filter(Boolean).map(parseFloat);
  }

  // The least score: what is below it is hidden, and objects found by it alone are missed.
  var slider = document.getElementById("least");
  var scored = all(document, "[data-score]"), objects = all(document, "[data-by]");
  var total = scored.filter(function (part) { return part.localName === "g"; }).length;
  function facts(card, least) {
    function says(name, text) {
      var place = card.querySelector("[data-fact=" + name + "]");
      if (place) { place.textContent = text; }
    }
    function reaches(value) { return value >= least; }
    says("sure", numbers(card, "data-sure").filter(reaches).length + " detections");
    if (!card.hasAttribute("data-objects")) { return; }
    var sum = 0, found = 0;
    card.getAttribute("data-pairs").split(" ").filter(Boolean).forEach(function (pair) {
      var both = pair.split(":").map(parseFloat);
      if (reaches(both[0])) { found += 1; sum += both[1]; }
    });
    var missed = score(card, "data-objects") - found;
    var extra = numbers(card, "data-extra").filter(reaches).length;
    var weight = found + (missed + extra) / 2;
    says("pq", "PQ " + (weight ? (sum / weight).toFixed(2) : "–"));
    says("found", found + " found");
    says("missed", missed + " missed");
    says("extra", extra + " extra");
  }
  function describe(picture) {
    var title = picture.getAttribute("data-title");
    var tips = all(picture, "g:not([hidden]) > title").map(function (t) { return t.textContent; });
    picture.setAttribute("aria-label", title + ": " + (tips.slice(0, 30).join("; ") || "nothing"));
  }
  function tell(title, lost) {
    title.found = title.found || title.textContent;
    title.textContent = lost ? title.found.replace(/, found with .*/, ", missed") : title.found;
  }
  function show() {
    var least = parseFloat(slider.value), count = 0;
    scored.forEach(function (part) {
      var seen = score(part, "data-score") >= least;
      if (seen) { part.removeAttribute("hidden"); } else { part.setAttribute("hidden", ""); }
      count += seen && part.localName === "g" ? 1 : 0;
    });
    objects.forEach(function (part) {
      var style = part.getAttribute("data-style"), lost = score(part, "data-by") < least;
      part.classList.toggle("missed", lost);
      part.classList.toggle(style, !lost);
      if (part.localName === "g") { tell(part.firstElementChild, lost); }
    });
    all(document, "[data-pairs], [data-sure]").forEach(function (card) { facts(card, least); });
    all(document, "svg[data-title]").forEach(describe);
    document.querySelector("output[for=least]").textContent = least.toFixed(2);
    document.getElementById("counted").textContent = count + " of " + total + " detections shown";
  }
  if (slider) {
    slider.addEventListener("input", show);
    all(document, "input[data-shows]").forEach(function (box) {
      function turn() { root.classList.toggle("no-" + box.getAttribute("data-shows"), !box.checked); }
      box.addEventListener("change", turn);
      turn();
    });
    show();
  }

  // Closer: both pictures of a card move together. x and y are percents of the picture.
  function zooming(card) {
    var k = 1, x = 0, y = 0;
    var frames = all(card, ".frame");
    function set(next, atX, atY) {
      next = Math.min(Math.max(next, 1), 16);
      x = atX - (atX - x) * next / k;
      y = atY - (atY - y) * next / k;
      k = next;
      move(0, 0);
    }
    function move(byX, byY) {
      var room = 100 * (1 - k);
      x = Math.min(Math.max(x + byX, room), 0);
      y = Math.min(Math.max(y + byY, room), 0);
      card.style.setProperty("--k", k);
      card.style.setProperty("--x", x + "%");
      card.style.setProperty("--y", y + "%");
      card.classList.toggle("closer", k > 1);
    }
    function place(frame, event) {
      var stage = frame.firstElementChild, rect = frame.getBoundingClientRect();
      var left = rect.left + (rect.width - stage.offsetWidth) / 2;
      var top = rect.top + (rect.height - stage.offsetHeight) / 2;
      return [100 * (event.clientX - left) / stage.offsetWidth,
        100 * (event.clientY - top) / stage.offsetHeight];
    }
    var ways = { in: 2, out: 0.5, all: 0 };
    all(card, "[data-zoom]").forEach(function (button) {
      button.addEventListener("click", function () {
        set(k * ways[button.getAttribute("data-zoom")], 50, 50);
      });
    });
    var keys = { ArrowLeft: [20, 0], ArrowRight: [-20, 0], ArrowUp: [0, 20], ArrowDown: [0, -20] };
    frames.forEach(function (frame) {
      frame.addEventListener("keydown", function (event) {
        if (event.ctrlKey || event.metaKey || event.altKey) { return; }
        var step = keys[event.key];
        if (step && k > 1) { move(step[0], step[1]); }
        else if (event.key === "+" || event.key === "=") { set(k * 2, 50, 50); }
        else if (event.key === "-") { set(k / 2, 50, 50); }
        else if (event.key === "0") { set(1, 50, 50); }
        else { return; }
        event.preventDefault();
      });
      frame.addEventListener("dblclick", function (event) {
        var at = place(frame, event);
        set(k * 2, at[0], at[1]);
        event.preventDefault();
      });
      frame.addEventListener("wheel", function (event) {
        if (!event.ctrlKey) { return; } // the page scrolls
        var at = place(frame, event);
        set(k * Math.pow(2, -event.deltaY / 200), at[0], at[1]);
        event.preventDefault();
      }, { passive: false });
      var held = null;
      frame.addEventListener("pointerdown", function (event) {
        if (k > 1 && event.button === 0) {
          held = [event.clientX, event.clientY];
          frame.setPointerCapture(event.pointerId);
        }
      });
      frame.addEventListener("pointermove", function (event) {
        if (!held) { return; }
        var stage = frame.firstElementChild;
        move(100 * (event.clientX - held[0]) / stage.offsetWidth,
          100 * (event.clientY - held[1]) / stage.offsetHeight);
        held = [event.clientX, event.clientY];
      });
      ["pointerup", "pointercancel"].forEach(function (name) {
        frame.addEventListener(name, function () { held = null; });
      });
    });
  }
  all(document, ".shot").forEach(zooming);
})();
