// Package pagecache keeps logical pages on a log: a page has an identifier
// (PID), a base and a chain of deltas, and is changed by compare-and-swap of one
// word in a mapping table. It knows nothing of what is in a page; a Materializer,
// supplied by the owner, folds fragments. Package tree is one owner, the string
// pages in the Example another.
//
// It is the page cache of an early log-structured store in Rust, whose ideas are
// those of LLAMA (Levandoski, Lomet, Sengupta: "LLAMA: A Cache/Storage Subsystem
// for Modern Hardware", VLDB 2013), on arena memory with epoch guards and with
// commit stamps for read snapshots.
//
// # What it gives
//
// Allocate, Get, Set, Merge and Free are the plain form: whole pages, changed one
// at a time with a Key that says what the caller saw. An update has one of three
// outcomes: done, page changed, page gone. Begin starts an Update of several
// pages, atomic in memory and across a crash. Pin and View read pages in place,
// without copying. OpenMoment opens a read snapshot; which versions a page keeps
// for it is the Materializer's business, which is told of the open ones.
//
// Memory is kept within Options.CacheSize by evicting pages: their positions in
// the log stay, their bytes go. Which pages those are follows from Views; Peek and
// LoadToScan are for reads that say nothing of what will be read again. Durability is asked for: WaitDurable, Sync. What
// can be read may not be durable yet.
//
// It does not order pages, does not interpret them, and never blocks a reader on
// a writer.
//
// # Invariants
//
//	P1  A page changes only by compare-and-swap of its slot, or by the holder of
//	    its writer bit; the log holds a page's updates in the order of their
//	    versions.
//	P2  A node is complete before it is published, and then only its commit cell
//	    and its mark change.
//	P3  Only who replaced a chain retires it, once; memory is reused only when no
//	    guard pinned before remains.
//	P4  A page version counts the updates of a PID and never restarts. A base
//	    states the version it contains. Replay applies by version, each once.
//	P5  A freed PID is reused only when no guard that may have seen its page
//	    remains and the record that freed it is durable.
//	P6  Of recovery states with one tree, the highest generation counts.
//	P7  A segment of the log is given back only when nothing in the table refers
//	    to it, neither of the two newest page-table snapshots does, and both
//	    start replay behind it.
//	P8  Stamps grow along a chain and are never reused; a version is stamped before
//	    anyone returns it. A moment never changes.
//	P9  A fragment leaves memory only when it is complete in the log.
//	P10 An Update is visible whole or not at all, and so is it after a crash.
//
// # Concurrency
//
// All methods may be called by many goroutines at once. Reads and updates of
// single pages take no mutex. Goroutines: one evicts, one cleans, one gathers, one writes
// page-table snapshots, the log has its own; Close joins them.
//
// # Reading the source
//
// node.go and table.go say what is in memory, append.go is the protocol of one
// update, update.go that of several, moment.go and Delta.Stamp the stamps; then
// consolidate.go, load.go, borrow.go, evict.go with memory.go, marks.go and
// probation.go, clean.go with space.go and survey.go, gather.go, checkpoint.go and
// recover.go. verify.go and salvage.go stand beside all that.
package pagecache
