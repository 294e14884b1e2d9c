/** A value now or later: hot paths that need not wait then do not. */
export type Awaitable<T> = T | Promise<T>;
