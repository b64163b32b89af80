// Starts ReDoc. A file of its own because the page's Content-Security-Policy allows no inline
// script.

// ReDoc puts its maker's logo, from a public CDN, under the menu. The policy blocks it, with an
// error in the console. Asking for an empty image instead makes ReDoc leave the logo out. React
// sets an address in both of these ways.
function ownOrEmpty(address) {
  const url = new URL(address, document.baseURI);
  return url.protocol === "data:" || url.origin === location.origin ? address : "data:,";
}

const image = HTMLImageElement.prototype;
const { setAttribute } = image;
const { get, set } = Object.getOwnPropertyDescriptor(image, "src");

image.setAttribute = function (name, value) {
  setAttribute.call(this, name, name === "src" ? ownOrEmpty(value) : value);
};
Object.defineProperty(image, "src", {
  get,
  set(address) {
    set.call(this, ownOrEmpty(address));
  },
});

const text = "system-ui, sans-serif";
const code = "ui-monospace, monospace";

Redoc.init(
  new URL("openapi.json", document.baseURI).href, // relative: works behind a proxy prefix
  {
    // The search index runs in a worker made from a blob: URL, which would need worker-src blob:.
    // The page shows everything at once, so the browser's own search finds it.
    disableSearch: true,
    requiredPropsFirst: true,
    theme: {
      typography: {
        fontFamily: text,
        headings: { fontFamily: text },
        code: { fontFamily: code },
      },
    },
  },
  document.getElementById("redoc"),
);
