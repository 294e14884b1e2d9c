import type { Authorizer } from "./authorizer.js";
import { type Failure, failureOfError, networkReason, unavailable } from "./failures.js";
import type { Admission, AdmissionRequest, Admitted, Permit } from "./limits/admission.js";
import type { RequestPriority } from "./limits/request-queue.js";
import { faultOf } from "./retry.js";
import { discard, isStreamed, type Transport, type UpstreamResponse } from "./transport.js";
import type { UpstreamCall } from "./upstream.js";
import type { UpstreamStatus } from "./upstream-status.js";

export interface EndpointParts {
  /** What the registry is called in answers and messages. */
  readonly name: string;
  readonly base: URL;
  readonly transport: Transport;
  readonly authorizer: Authorizer;
  readonly admission: Admission;
  /** When the credentials in use end. */
  credentialExpiresAt?(): number | undefined;
}

/** How a request is sent. */
export interface HowToSend {
  readonly priority: RequestPriority;
  /** Belongs to a push or a delete. */
  readonly write: boolean;
  /** The aggregates that the question has passed, as a header's value. */
  readonly via: string | undefined;
}

/** What became of one request: any response, or why there is none. */
export type Attempt =
  | { readonly kind: "response"; readonly response: UpstreamResponse; readonly asked: URL }
  | {
      readonly kind: "failed";
      readonly failure: Failure;
      /** Who may still answer a read: this URL when asked once more, another one, or nobody. */
      readonly next: "again" | "elsewhere" | "nobody";
    };

/** One URL of a registry: sends what its admission permits, and authenticates it. */
export class Endpoint {
  readonly base: URL;
  readonly #parts: EndpointParts;
  #bytes = 0;

  constructor(parts: EndpointParts) {
    this.#parts = parts;
    this.base = parts.base;
  }

  /** Milliseconds for which the upstream has asked to be left alone. */
  get pause(): number {
    return this.#parts.admission.pause;
  }

  get status(): UpstreamStatus {
    const credentialExpiresAt = this.#parts.credentialExpiresAt?.();
    return { ...this.#parts.admission.status, bytes: this.#bytes, ...(credentialExpiresAt !== undefined && { credentialExpiresAt }) };
  }

  /** Requests that wait are refused; those in progress are the transport's. */
  close(): void {
    this.#parts.admission.close();
  }

  /**
   * Sends with the token at hand, answers one 401, and sends once more; what comes then is the answer, whatever its status. A 403 never authenticates
   * again. A streamed body is not sent again, but the next request has a fresh token.
   * @throws the signal's reason.
   */
  async attempt(call: UpstreamCall, o: HowToSend): Promise<Attempt> {
    const { name, authorizer, admission } = this.#parts;
    const what = `${name}: ${call.what}`;
    const request: AdmissionRequest = { what, priority: o.priority, write: o.write, countsAsPull: call.countsAsPull, signal: call.signal };
    try {
      // Before a token is asked for that nobody would use.
      const refused = admission.refusal(request);
      if (refused) return notSent(refused);
      const prepared = await authorizer.prepare(call.scope, call.signal);
      if (prepared.kind !== "ready") return unauthorized(prepared);
      const first = await this.#request(call, request, o, prepared.value);
      // A challenge from where a redirect led is not this registry's to make.
      if (first.kind !== "response" || first.response.status !== 401 || first.response.url.origin !== this.base.origin) return first;
      discard(first.response);
      const challenge = first.response.headers["www-authenticate"];
      const answer = await authorizer.answer(challenge, call.scope, prepared.value, call.signal);
      if (answer.kind !== "ready") return unauthorized(answer);
      if (isStreamed(call.body)) {
        return { kind: "failed", failure: unavailable(`${what}: the authorization ended on the way; send again`, 1), next: "nobody" };
      }
      return await this.#request(call, request, o, answer.value);
    } catch (error) {
      return { kind: "failed", failure: failureOfError(error, what, call.signal), next: "nobody" };
    }
  }

  async #request(call: UpstreamCall, request: AdmissionRequest, o: HowToSend, authorization: string | undefined): Promise<Attempt> {
    const admitted = await this.#parts.admission.admit(request);
    return admitted.kind === "refused" ? notSent(admitted) : this.#send(call, o, authorization, admitted.permit);
  }

  async #send(call: UpstreamCall, { priority, via }: HowToSend, authorization: string | undefined, permit: Permit): Promise<Attempt> {
    const { method, headers, body, headersTimeout, signal } = call;
    const asked = new URL(call.path, this.base);
    let answered = false;
    try {
      const response = await this.#parts.transport.send({
        method,
        url: asked,
        authorization,
        via,
        body,
        headersTimeout,
        signal,
        follow: method !== "HEAD",
        aside: priority === "exempt",
        ...(headers && { headers }),
        answered: (hop) => {
          // Where a redirect leads is no part of the registry: its troubles are not the registry's.
          if (hop.url.origin !== this.base.origin) return;
          answered = true;
          permit.answered(hop);
        },
      });
      this.#follow(response, permit);
      return { kind: "response", response, asked };
    } catch (error) {
      const fault = signal?.aborted ? undefined : faultOf(error);
      // A request that streams its body also fails for its source's sake.
      if (fault && !answered && !isStreamed(body)) permit.failed(networkReason(error));
      permit.release();
      const failure = failureOfError(error, `${this.#parts.name}: ${call.what}`, signal);
      // What took all its time once would take it again.
      return { kind: "failed", failure, next: fault === "network" ? "again" : fault === "timeout" ? "elsewhere" : "nobody" };
    }
  }

  /** The permit lasts until the body has been read or given up. */
  #follow({ body }: UpstreamResponse, permit: Permit): void {
    if (body.closed) permit.release();
    else body.once("close", () => permit.release());
    // A listener alone would start the flow, before anybody reads.
    body.pause();
    body.on("data", (chunk: Uint8Array) => {
      this.#bytes += chunk.byteLength;
    });
  }
}

function notSent({ failure, elsewhere }: Exclude<Admitted, { kind: "admitted" }>): Attempt {
  return { kind: "failed", failure, next: elsewhere ? "elsewhere" : "nobody" };
}

/** Refused for good, or not to be had from this URL. */
function unauthorized(failure: Failure): Attempt {
  return { kind: "failed", failure, next: failure.kind === "unavailable" ? "elsewhere" : "nobody" };
}
