// Bench compares pulk with other embedded key-value stores: bbolt, pebble, badger,
// and, if built with -tags lmdb, LMDB through cgo.
//
//	bench [flags]                     runs workloads and prints tables
//	bench -read results.json [flags]  prints the tables of an earlier run
//
// # How it measures
//
// Each run, of one workload by one store, is a process of its own. The stores take
// turns, and the order changes from round to round; the tables have the medians of
// the rounds, and as ± half the range of them in percent.
//
// Rows have keys of 16 random-looking bytes and values of 100, half of them random.
// Every value that is read is checked, in every store and workload; the time that
// takes is part of the figures.
//
// A store that a workload needs full is made once, by atomic batches in random key
// order, left alone until it stops writing, and closed. Workloads that only read
// use it as it is, the others a copy. Unless the workload is a cold one, the store
// has a cache of four times the data, at least 64 MiB, and every row is read once
// before measuring begins.
//
// A cold workload has a cache of a quarter of the data, and the system's cache of
// the store's files is emptied a hundred times a second by another process, mapped
// pages too, so that what a store does not have in its own memory comes from the
// disk.
//
// A workload ends after -seconds, or when its operations are all done: those that
// load or overwrite do not go on for ever. Stores that take much longer for these
// are stopped at ten times -seconds; their figure is the rate until then, with less
// in them than the others had.
//
// # Settings
//
// No store compresses. None syncs, but for the durable workloads, in which a write
// returns when it is on disk. What else each store is given stands above its
// adapter, with the reason. In short: pulk, badger: defaults. pebble: the settings of
// its own benchmark. bbolt: those of etcd; bbolt-batch gathers concurrent writes with
// DB.Batch. A get is one call for one key: in bbolt, badger and LMDB a read
// transaction. The workloads called snap have one long read snapshot, or
// transaction, for each goroutine.
//
// # What the columns mean
//
// The rate counts operations (rows for scans and batches). Latency
// is that of every 16th operation, or of every one where they are slow. Allocations
// and CPU count the whole process, background work included; the factor at pulk's is
// the least CPU of the other stores in Go over pulk's, so more than 1 is less work.
// Peak memory is the largest resident set during the measured part (VmHWM): the
// pages of a mapped file that are in use count for bbolt and LMDB, and badger maps
// its tables. Written is what the process gave to calls that write (wchar of
// /proc/self/io) until it came to rest, and for badger, which writes through mappings,
// what it counts itself, for each byte of key and value. Space is what the files
// occupy then over the live rows.
package main
