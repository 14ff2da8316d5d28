// Package snapshot keeps page-table snapshots: the mapping table as of one log
// position, in a file of its own, so that opening a store reads the newest such
// file and then a short tail of the log instead of all of it.
//
// # What it guarantees
//
//	S1  A file named %016x.snap is complete: it was written under another
//	    name, synced, and then renamed. Commit returns nil only when file and
//	    name are durable.
//	S2  Load delivers exactly what Add and Commit were given, or falls back.
//	    Every byte is covered by a checksum, every checksum by the store id,
//	    the incarnation and the sequence of the file; a file that is cut short
//	    or goes on behind its end is damaged.
//	S3  The checksums of a whole file are checked before its first slot is
//	    delivered, and accept is called before that, too.
//	S4  Slots come in ascending order of PID, each PID once.
//	S5  Bad bytes never make the decoder panic or loop. What it allocates
//	    before a checksum was right is bounded by the size of the file, and
//	    after that by 2 MiB for slots and 64 MiB for a footer.
//	S6  A format version or required feature from the future is log.ErrVersion.
//	    It is never taken for damage, and never skipped: the older file behind
//	    it may lack what the log has dropped since.
//
// # What it does not do
//
// It does not know which log segments exist, so it cannot say whether falling
// back is allowed: accept can. It does not decide when to write a snapshot, nor
// when an older one may go.
//
// # Concurrency
//
// A Writer belongs to one goroutine. Load, List and RemoveOlder must not run
// beside a Commit in the same directory.
//
// Read first: format.go.
package snapshot
