// Package crashtest loses power, and fails file operations, under a store of any
// layer, and checks what comes of it. Tests use it alone.
//
// A layer says how its store is opened, how one step changes it, and which of
// the steps that were begun a store found again contains (Store). The package
// does the rest:
//
//   - Power runs steps, and before every changing file operation makes clones of
//     the file system as a loss of power would leave it there, each with another
//     part of what was not synced. Each clone is opened and must contain every
//     step that was acknowledged as durable; it is then written further, and
//     loses power again: during that recovery, and in the recovery from that.
//   - Faults runs steps and fails the i-th file operation, for every i, in every
//     way that the operation can fail. Errors must name the cause; after one that
//     is final everything that writes fails; what can be read is right; no file
//     stays open. Afterwards the store is opened again on the same system, which
//     may show what never reached the disk, and on one that lost power.
//
// What is found after an Open that succeeded counts as durable from then on,
// whatever had been acknowledged: a reader has seen it.
//
// All choices come from one seed. Where a layer works in the background a seed
// does not repeat a run exactly; the store that was found wrong is therefore
// kept, in a directory that the error names.
package crashtest
