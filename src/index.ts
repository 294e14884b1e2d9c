/** Manifold: under construction. */
export * from "./core/registry.js";
