package tree

import "runtime"

// A yieldPoint names a place where a test can hold an operation up.
type yieldPoint uint8

const (
	yieldBlindParent   yieldPoint = iota // the parent and the absent leaf are viewed
	yieldBlindRouted                     // the parent is viewed again
	yieldSplitPlanned                    // a split has merged its page
	yieldSplitParent                     // it owns the parent
	yieldBatchOwned                      // a batch owns another leaf
	yieldUpdateRouted                    // a write has found its leaf
	yieldCommitScouted                   // a commit has seen its leaves and owns none
	yieldCommitOwned                     // a commit owns all of its leaves and has validated
	yieldJoinOwned                       // a join owns another page, or all of them
	yieldSpin                            // waiting for what another goroutine is about to do
)

// yieldHook and halfDoneHook are set by tests before a tree is opened and left
// alone while it is.
var yieldHook func(yieldPoint)

// halfDoneHook makes a split leave its parent alone; finish then has to do it.
// Blind updates are off while it is set.
var halfDoneHook func() bool

func yield(p yieldPoint) {
	if yieldHook != nil {
		yieldHook(p)
	}
}

// spin lets others run: what the caller waits for is about to be done by one of
// them.
func spin() {
	yield(yieldSpin)
	runtime.Gosched()
}
