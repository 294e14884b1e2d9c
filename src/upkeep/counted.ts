/** The same bytes, each chunk told. @throws the signal's reason. */
export async function* counted(
  source: AsyncIterable<Uint8Array>,
  received: (bytes: number) => void,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of source) {
    signal?.throwIfAborted();
    received(chunk.byteLength);
    yield chunk;
  }
}
