// Package log is a log-structured store of updates: it appends records to an
// endless sequence, gives them back by position, and replays them after a
// restart. It knows nothing about what the updates mean.
//
// A record carries the updates of one or several pages and is atomic. Reserve
// takes space for one without a lock, Append copies the updates in, Complete
// adds the stamp and the checksums; goroutines do all of this side by side.
// WaitDurable waits until a record is synced and shares the sync with whoever
// else waits. Read finds one update by its Position, in memory or in the file.
//
// There are two streams, Fresh and Survivors, each with buffers and segments of
// its own. Order is kept within a stream: what survives a crash is a prefix of
// it. Between the streams there is no order but that of LSNs.
//
// What it does not do: it keeps no index, decides not what is live (Account is
// the callers' bookkeeping), moves nothing out of a segment that shall go, and
// compresses nothing.
//
// # Invariants
//
//   - L1. A record is whole or absent: its checksum covers all of it. Of a group
//     either all parts are delivered by Replay or none.
//   - L2. The headers of a stream's segments chain it: each names the one before
//     it and where that ended. A segment's file stays until a durable header
//     behind it says that the stream was durable past its end, so a segment that
//     was recycled cannot be mistaken for the end of the log.
//   - L3. Durable(s) covers a contiguous prefix of a stream, and moves only after
//     the data, the header of their file and its name were synced.
//   - L4. No LSN is written twice, and bytes of an earlier life do not verify:
//     every checksum covers LSN and incarnation, and Start raises the incarnation
//     durably before its first record, in segments above all that were seen. What
//     lies behind the end that one recovery found never comes back.
//   - L5. The first failed write or sync is the last: nothing is written or synced
//     any more, Durable stays, reads go on. What was not durable then may stop
//     being readable, which is ErrFailed and not damage.
//   - L6. A segment is recycled only when nobody needs it; its reader sees what
//     was written or ErrGone. The caller of Recycle proves the first, the log
//     provides the second.
//   - L7. A replay from ReplayStart delivers every record that was not complete
//     when it was asked, and begins inside no group.
//
// # The end of the log
//
// Records and segment headers carry the durable mark of their stream: below it
// everything had been synced when they were written. A record that cannot be
// read is damage when any mark lies above it, and the torn end of the stream
// otherwise. So damage to what was written after the last mark cannot be told
// from a torn write, and cuts the log there. Close writes a last mark, and so
// does an idle log with a FlushInterval, or when MarkSoon is called.
//
// A crash leaves, in each stream, a readable prefix that contains all that was
// durable. This holds because:
//   - a flusher writes the buffers of a stream in order and moves Durable over
//     files that it has synced, names included (L3);
//   - what follows the first unreadable record is never read as part of the log:
//     the next incarnation's first segment names that place as the end of the one
//     before it, and segments in between, which no header names, are removed
//     before Start returns;
//   - a crash before that header is durable leaves the old state, with the same
//     end;
//   - a file is reused by renaming it twice: it loses the name of its segment, and
//     gets another only when the first renaming is durable, so that no contents of
//     its next life are ever found under the name of the last. Until both its new
//     name and its new header are durable, header and name disagree after a crash,
//     or the header is zeros, or cannot be read; such a file held nothing durable
//     and is removed.
//
// # Concurrency
//
// Reserve, Append, Complete, Abort, Account, Tail, Durable take no lock and do
// no I/O; the exceptions are a chunk of the segment table, once in 256
// segments, and parts of a group, which register. One goroutine at a time writes
// to files (it holds the mutex writing) and one syncs (the role syncing); a
// waiter does either itself when nobody else does.
//
// Read buffer.go first, then stream.go, flush.go and replay.go; format.go and
// header.go have the layouts.
package log
