// A worker on the official Node SDK that a test drives. The commands and reports are those of worker.py.
//
//     node worker.mjs URL NAME        (SDK_DIRECTORY: the folder whose node_modules hold iii-sdk)
//
// A result that is `undefined` is reported as an answer without `result`.

import { Console } from 'node:console'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

// The SDK logs through `console`, and the standard output carries the reports.
globalThis.console = new Console(process.stderr, process.stderr)

const require = createRequire(`${process.env.SDK_DIRECTORY}/`)
const { registerWorker } = require('iii-sdk')

const [url, workerName] = process.argv.slice(2)
const headers = process.env.WORKER_HEADERS ? { headers: JSON.parse(process.env.WORKER_HEADERS) } : {}
const reconnectionConfig = { initialDelayMs: 100, maxDelayMs: 400 }
const worker = registerWorker(url, { workerName, reconnectionConfig, ...headers })
const functions = new Map()
const triggers = new Map()
const held = new Map()

function report(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`)
}

// `timeout_ms` as the Python SDK has it is `timeoutMs` here.
function toRequest({ timeout_ms: timeoutMs, ...rest }) {
  return timeoutMs === undefined ? rest : { ...rest, timeoutMs }
}

function createHandler(functionId, behaviour) {
  let calls = 0
  return async (data, metadata) => {
    calls += 1
    report({ called: functionId, payload: data, metadata: metadata ?? null })
    switch (behaviour.kind) {
      case 'echo':
        return data
      case 'return':
        return behaviour.value
      case 'pick':
        return behaviour.path.reduce((value, step) => value[step], data)
      case 'raise':
        if (calls <= (behaviour.times ?? calls)) throw new Error(behaviour.message)
        return null
      case 'hold':
        await new Promise((resolve) => held.set(functionId, [...(held.get(functionId) ?? []), resolve]))
        return 'released'
      case 'call':
        return await worker.trigger(toRequest(behaviour.request))
      case 'read_channel':
        return (await data.reader.readAll()).toString('utf8')
      default:
        throw new Error(`unknown behaviour ${behaviour.kind}`)
    }
  }
}

const commands = {
  register_function({ function_id, behaviour }) {
    functions.set(function_id, worker.registerFunction(function_id, createHandler(function_id, behaviour)))
    return null
  },
  unregister_function({ function_id }) {
    functions.get(function_id).unregister()
    functions.delete(function_id)
    return null
  },
  register_trigger({ name, trigger }) {
    triggers.set(name, worker.registerTrigger(trigger))
    return null
  },
  unregister_trigger({ name }) {
    triggers.get(name).unregister()
    triggers.delete(name)
    return null
  },
  release({ function_id }) {
    const waiting = held.get(function_id) ?? []
    held.delete(function_id)
    for (const resolve of waiting) resolve()
    return waiting.length
  },
  trigger({ request }) {
    return worker.trigger(toRequest(request))
  },
  async stream({ function_id, pieces }) {
    const channel = worker.createChannel
      ? await worker.createChannel()
      : await require('iii-sdk/helpers').createChannel(worker)
    const result = worker.trigger({ function_id, payload: { reader: channel.readerRef } })
    for (const piece of pieces) channel.writer.stream.write(piece)
    channel.writer.stream.end()
    return await result
  },
  info() {
    return { connected: worker.connectionState === 'connected', worker_id: worker.workerId ?? null }
  },
  async shutdown() {
    await worker.shutdown()
    return null
  },
}

async function answer({ id, do: name, ...rest }) {
  try {
    report({ id, result: await commands[name](rest) })
  } catch (error) {
    const { code = error.name, stacktrace = null } = error
    // The SDK puts the code in front of the message.
    const message = error.message.startsWith(`${code}: `) ? error.message.slice(code.length + 2) : error.message
    report({ id, error: { code, message, stacktrace } })
  }
}

const lines = createInterface({ input: process.stdin })
lines.on('line', (line) => answer(JSON.parse(line)))
lines.on('close', () => process.exit(0))
report({ ready: process.pid })
