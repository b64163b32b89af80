// Starts Swagger UI. A file of its own because the page's Content-Security-Policy allows no inline
// script.
SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: new URL("openapi.json", document.baseURI).href, // relative: works behind a proxy prefix
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",

  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,

  // true would write the password typed into Authorize to localStorage, in clear.
  persistAuthorization: false,
  // true would let a link such as /docs?url=https://… show somebody else's API under our name.
  queryConfigEnabled: false,
  // The default is a public validator, which some layouts tell the address of this API.
  validatorUrl: null,
});
