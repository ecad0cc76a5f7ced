import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  { rules: { "no-var": "error", "prefer-const": "error", eqeqeq: "error", curly: "off" } },
  { files: ["bench/**", "demo/**", "shared/**"], languageOptions: { globals: globals.browser } },
  { files: ["demo/worker*.js"], languageOptions: { globals: globals.worker } },
  {
    files: ["driver/**", "test/**", "*.config.js"],
    languageOptions: { globals: { ...globals.node, ...globals.browser } },
  },
];
