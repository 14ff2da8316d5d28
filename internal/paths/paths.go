// Package paths counts, in debug builds, how often each structural path of the
// store was taken: splits, loads of partly evicted pages, recoveries with and
// without a page-table snapshot. A long test asks Missing at its end and fails
// when a path it exists for never ran.
//
// Outside debug builds (see package invariant) Hit compiles to nothing.
package paths

import (
	"sync/atomic"

	"github.com/pulkdb/db/internal/invariant"
)

// A Path is one structural path worth counting.
type Path uint8

// The paths. Each has its name in the table below, in the same order; the
// numbers are not persisted.
const (
	SplitLeaf Path = iota
	SplitInner
	SplitMany
	FinishSplit
	RootGrowth
	JoinLeaf
	JoinInner

	Load
	LoadPartlyEvicted
	LoadInParallel
	Evict
	EvictWithDeltas
	BlindUpdate

	ConsolidateInMemory
	ConsolidateToLog
	Gathered
	ReadTogether
	FreePID
	ReusePID
	PublishLost
	WriterBitFallback

	BatchCommit
	GroupRecord
	Abort

	SegmentChange
	SegmentReuse
	Cleaned
	CleanerLost

	SnapshotWhileWriting
	SnapshotDifference
	SnapshotMerge
	SnapshotFallback
	RecoverWithSnapshot
	RecoverWithoutSnapshot
	RecoverTornTail

	numPaths
)

var names = [numPaths]string{
	SplitLeaf:              "SplitLeaf",
	SplitInner:             "SplitInner",
	SplitMany:              "SplitMany",
	FinishSplit:            "FinishSplit",
	RootGrowth:             "RootGrowth",
	JoinLeaf:               "JoinLeaf",
	JoinInner:              "JoinInner",
	Load:                   "Load",
	LoadPartlyEvicted:      "LoadPartlyEvicted",
	LoadInParallel:         "LoadInParallel",
	Evict:                  "Evict",
	EvictWithDeltas:        "EvictWithDeltas",
	BlindUpdate:            "BlindUpdate",
	ConsolidateInMemory:    "ConsolidateInMemory",
	ConsolidateToLog:       "ConsolidateToLog",
	Gathered:               "Gathered",
	ReadTogether:           "ReadTogether",
	FreePID:                "FreePID",
	ReusePID:               "ReusePID",
	PublishLost:            "PublishLost",
	WriterBitFallback:      "WriterBitFallback",
	BatchCommit:            "BatchCommit",
	GroupRecord:            "GroupRecord",
	Abort:                  "Abort",
	SegmentChange:          "SegmentChange",
	SegmentReuse:           "SegmentReuse",
	Cleaned:                "Cleaned",
	CleanerLost:            "CleanerLost",
	SnapshotWhileWriting:   "SnapshotWhileWriting",
	SnapshotDifference:     "SnapshotDifference",
	SnapshotMerge:          "SnapshotMerge",
	SnapshotFallback:       "SnapshotFallback",
	RecoverWithSnapshot:    "RecoverWithSnapshot",
	RecoverWithoutSnapshot: "RecoverWithoutSnapshot",
	RecoverTornTail:        "RecoverTornTail",
}

var counts [numPaths]atomic.Uint64

// String is the path's name.
func (p Path) String() string {
	if p >= numPaths {
		return "Path(?)"
	}
	return names[p]
}

// Hit counts one use of p. Any goroutine may call it.
func Hit(p Path) {
	if invariant.Debug {
		counts[p].Add(1)
	}
}

// Counts returns how often each path was taken since the process began or
// since Reset, by name. All are zero outside debug builds.
func Counts() map[string]uint64 {
	m := make(map[string]uint64, numPaths)
	for p := range counts {
		m[names[p]] = counts[p].Load()
	}
	return m
}

// Missing returns the names of the paths never taken, in the order of their
// declaration. Outside debug builds it returns nil: nothing was counted.
func Missing() []string {
	if !invariant.Debug {
		return nil
	}
	var missing []string
	for p := range counts {
		if counts[p].Load() == 0 {
			missing = append(missing, names[p])
		}
	}
	return missing
}

// Reset sets every count to zero.
func Reset() {
	for p := range counts {
		counts[p].Store(0)
	}
}
