// Measure runs a store through workloads and prints what they cost. It uses
// package db alone, as any program would. The Makefile has a target for each
// way to call it; measure -h lists the flags.
//
//	measure [flags]            the phases of -phases, one after the other
//	measure [flags] reopen     how long Open takes after Close and after kill -9
//	measure [flags] cycles     pages, space and scan time over fill-and-delete cycles
//	measure [flags] stall      Set while a page-table snapshot is written, and while none is
//	measure [flags] scanhits   hit rate of Zipf reads, alone and beside full scans
//
// # Rows
//
// Keys are 16 random-looking bytes, all different. The first half of a value is
// random, the rest is text that repeats; it begins with a number from which,
// together with the key, the rest follows, so every value that is read is
// checked.
//
// # Phases
//
//	load      every key once, in random order
//	uniform   twice as many Sets as there are keys, each of a random key
//	zipf      as many, of keys in a Zipf distribution with exponent 0.99, the
//	          frequent ones spread over the key space
//	delete    every second key, in random order
//	refill    the keys that delete removed, in random order
//	idle      nothing, for -idle
//
// Writes are not synced one by one (db.DurabilityNone); each phase ends with Sync,
// which counts in its time. After each phase come cold reads, see below; their
// time and what is written meanwhile belong to no phase, their memory and space
// count in the largest figures of the phase before.
//
// # What the figures mean
//
// Live data are the bytes of keys and values of the rows that are present.
// Nothing is added for the overhead of a row, since a user stores rows and
// overhead is what the figure is to show.
//
// Written is what was written to files, log and page-table snapshots, for each
// byte of key and value given to Set, or of key given to Delete.
//
// Space is what the files of the store occupy on disk, as du counts it (blocks,
// not lengths, where the system tells), over live data: at the end of the phase,
// and the largest of all samples, one each -sample. Samples before live data reach
// a tenth of all rows are left out of the largest ratio, since a store has a fixed
// least size. The column above 2x takes them in: it is the largest number of
// bytes, at any moment, by which the files exceeded twice the live data.
//
// RSS is the peak of the process's resident memory, this program and its
// bookkeeping included (VmHWM, set back before each phase; 0 where the system does
// not tell).
//
// Cache is the largest sample of MemoryMetrics.Used over CacheSize.
//
// Cold Gets: random keys are read one after the other, then the same keys in the
// same order again. There are so many of them that a page has been evicted when
// it comes back. The reads from files of each Get that had to wait for a page are
// counted: in the first round, and, for the keys of which that was true in the
// first, in the second.
package main
