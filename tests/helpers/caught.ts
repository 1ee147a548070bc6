// What goes wrong in tests, as a value.

/** The error of a promise that must fail. @throws Error when it does not. */
export async function caught(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("the promise did not reject");
}
