"use strict";
const lorascope = (() => {
  const data = (name) => JSON.parse(document.getElementById(`data-${name}`)?.textContent ?? "null");
  // Colours are the page's own variables, so that charts follow the theme and the print style without being redrawn.
  // Fonts are measured on a canvas, which knows no variables.
  const font = getComputedStyle(document.body).fontFamily;
  const axis = {
    labelColor: "var(--ink)", titleColor: "var(--muted)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: 400,
    gridColor: "var(--rule)", domainColor: "var(--rule)", tickColor: "var(--rule)", titlePadding: 10, tickCount: 6,
    labelFont: font, titleFont: font,
  };
  const config = {
    background: "transparent", font, view: { stroke: null }, axis,
    title: { color: "var(--ink)", fontSize: 14, fontWeight: 600, font },
    legend: { labelColor: "var(--ink)", labelFontSize: 12, labelFont: font, padding: 0, offset: 10, layout: { bottom: { anchor: "start", direction: "vertical", margin: 4 } } },
    text: { color: "var(--ink)", fill: "var(--ink)", font },
  };
  // Rendering without "ast" would compile expressions with eval, which the page's policy forbids.
  const options = { ast: true, renderer: "svg", actions: false, defaultStyle: false, config, tooltip: { disableDefaultStyle: true } };
  const draw = (place, spec) => vegaEmbed(place, spec, options);
  const all = data("charts") ?? {};
  // Captions are text of the page: they wrap where a title inside the drawing would be cut.
  const drawWithCaption = (place) => {
    const { title, ...spec } = all[place.dataset.chart];
    const caption = document.createElement("figcaption");
    caption.textContent = title.text;
    if (title.subtitle) {
      const unit = document.createElement("span");
      unit.textContent = title.subtitle;
      unit.className = "note";
      caption.append(" ", unit);
    }
    place.before(caption);
    return draw(place, spec);
  };
  const ready = Promise.all([...document.querySelectorAll("[data-chart]")].map(drawWithCaption));
  ready.then(() => { document.documentElement.dataset.charts = "drawn"; });
  const fill = (template, values) => template.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  return { data, draw, fill, texts: data("texts") ?? {} };
})();
