package main

import "github.com/pulkdb/db/internal/workload"

// A load is a workload.
type load struct {
	name       string
	goroutines []int // how many are tried
	unit       string
	run        func(r *run) error

	fresh        bool // it begins with an empty store
	writes       bool // it changes the store: it gets a copy, and bytes written and space are measured
	cold         bool // see the documentation of this program
	sync         bool // writes are durable
	slow         bool // an operation takes a while
	whole        bool // it is meant to do all its operations
	transactions bool // it needs transactions
}

// loads are all workloads, in the order of the tables.
var loads = []*load{
	{name: "load sequential", goroutines: one, fresh: true, writes: true, whole: true, run: runLoadSequential},
	{name: "load random", goroutines: both, fresh: true, writes: true, whole: true, run: runLoadRandom},
	{name: "get", goroutines: both, run: gets(false, hit)},
	{name: "get miss", goroutines: both, run: gets(false, miss)},
	{name: "get zipf", goroutines: both, run: gets(false, zipf)},
	{name: "snap get", goroutines: both, run: gets(true, hit)},
	{name: "snap get miss", goroutines: both, run: gets(true, miss)},
	{name: "snap get zipf", goroutines: both, run: gets(true, zipf)},
	{name: "seek+100", goroutines: both, run: seeks(false)},
	{name: "seek+100 back", goroutines: both, run: seeks(true)},
	{name: "scan all", goroutines: one, unit: "rows", slow: true, run: runScan},
	{name: "overwrite", goroutines: both, writes: true, whole: true, run: runOverwrite},
	{name: "ycsb A", goroutines: both, writes: true, run: ycsb(mixA)},
	{name: "ycsb B", goroutines: both, writes: true, run: ycsb(mixB)},
	{name: "ycsb E", goroutines: both, writes: true, run: ycsb(mixE)},
	{name: "ycsb F", goroutines: both, writes: true, run: ycsb(mixF)},
	{name: "durable set", goroutines: []int{1, 8, 64}, writes: true, sync: true, slow: true, run: runSets},
	{name: "batch of 1000", goroutines: both, unit: "rows", writes: true, slow: true, run: runBatches},
	{name: "delete", goroutines: both, writes: true, run: runDeletes},
	{name: "cold get", goroutines: both, cold: true, slow: true, run: gets(false, hit)},
	{name: "cold set", goroutines: both, cold: true, writes: true, run: runSets},
	{name: "scan during sets", goroutines: one, unit: "rows", writes: true, slow: true, run: runScanDuringSets},
	{name: "transaction 4r 2w", goroutines: both, writes: true, transactions: true, run: runTransactions},
	{name: "open after close", goroutines: one, writes: true, unit: "ms", slow: true, run: runOpen(false)},
	{name: "open after kill", goroutines: one, writes: true, unit: "ms", slow: true, run: runOpen(true)},
	{name: "fill", goroutines: []int{2}, fresh: true, run: runFill},
	{name: "write", goroutines: []int{2}, run: runWrite},
}

// The last of the loads serve the others: fill makes the store that most begin
// with, and write is what is killed.
const servants = 2

var (
	one  = []int{1}
	both = []int{1, 2}
)

func loadOf(name string) (*load, bool) {
	for _, l := range loads {
		if l.name == name {
			return l, true
		}
	}
	return nil, false
}

const forEver = 1 << 50

// seconds is how long a workload goes on.
func (r *run) seconds() float64 {
	if r.load.whole {
		return 10 * r.spec.Seconds
	}
	return r.spec.Seconds
}

// A draw chooses the key of an operation.
type draw func(r *run) func(op int) int

func hit(r *run) func(op int) int {
	return func(op int) int { return workload.Below(r.random(op), r.spec.Keys) }
}

// miss chooses keys that are not there.
func miss(r *run) func(op int) int {
	return func(op int) int { return 1<<40 + workload.Below(r.random(op), 1<<40) }
}

// zipf draws some keys beforehand, since that takes as long as a read.
func zipf(r *run) func(op int) int {
	drawn := make([]int32, 1<<20)
	z := workload.NewZipf(r.spec.Keys, 0.99)
	for i := range drawn {
		drawn[i] = int32(workload.Below(workload.Mix(uint64(z.Rank(r.random(i)))+99), r.spec.Keys))
	}
	return func(op int) int { return int(drawn[op&(len(drawn)-1)]) }
}
