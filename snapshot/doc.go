// Package snapshot keeps page-table snapshots: the mapping table as of one log
// position, in files of its own, so that opening a store reads the newest
// snapshot and then a short tail of the log instead of all of it.
//
// A snapshot is a file, either a base, which holds all slots, or a difference,
// which names the snapshot it builds on, its parent, and holds what is other than
// there. So writing one costs what has changed. The files of a snapshot, from its
// base to itself, are composed when it is loaded.
//
// # What it guarantees
//
//	S1  A file named %016x.snap is complete: it was written under another
//	    name, synced, and then renamed. Commit returns nil only when file and
//	    name are durable.
//	S2  Load delivers exactly what Add and Commit were given, or falls back.
//	    Every byte is covered by a checksum, every checksum by the store id,
//	    the incarnation, the sequence and the parent of the file; a file that is
//	    cut short or goes on behind its end is damaged.
//	S3  Accept is called when header and footer of all files of a snapshot are
//	    verified, and each builds on the one before; a slot is delivered when
//	    the frame it is in is verified. A frame that proves damaged later takes
//	    the snapshot back: the next Accept, or found being false, says so.
//	S4  Of one file, slots have ascending PIDs, each PID once; and of two files
//	    the parent's slots come first.
//	S5  Bad bytes never make the decoder panic or loop. What it allocates
//	    before a checksum was right is bounded by the size of the file, and
//	    after that by 2 MiB for slots, per goroutine, and 64 MiB for a footer, and
//	    a dozen times as much for the lists in it.
//	S6  A format version or required feature from the future is log.ErrVersion.
//	    It is never taken for damage, and never skipped: the older file behind
//	    it may lack what the log has dropped since.
//
// # What it does not do
//
// It does not know which log segments exist, so it cannot say whether falling
// back is allowed: Accept can. It does not decide when to write a snapshot, what a
// difference must hold, nor when a file may go.
//
// # Concurrency
//
// A Writer belongs to one goroutine. Load, List and RemoveOthers must not run
// beside a Commit in the same directory. Load calls Slot from several goroutines.
//
// Read first: format.go.
package snapshot
