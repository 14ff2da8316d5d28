package tree

import (
	"bytes"

	"github.com/pulkdb/db/internal/testhooks"
)

// yieldNames are what tests of other packages call the yield points.
var yieldNames = map[yieldPoint]string{
	yieldBlindParent:   "BlindParent",
	yieldBlindRouted:   "BlindRouted",
	yieldSplitPlanned:  "SplitPlanned",
	yieldSplitParent:   "SplitParent",
	yieldBatchOwned:    "BatchOwned",
	yieldUpdateRouted:  "UpdateRouted",
	yieldCommitScouted: "CommitScouted",
	yieldCommitOwned:   "CommitOwned",
	yieldJoinOwned:     "JoinOwned",
	yieldSpin:          testhooks.Spin,
}

func init() {
	testhooks.Register("tree", func(f func(point string)) {
		yieldHook = nil
		if f != nil {
			yieldHook = func(p yieldPoint) { f(yieldNames[p]) }
		}
	})
}

// singleKeys returns those of the ranges that hold one key only. It is for
// testhooks.SkipRangeValidation.
func singleKeys(ranges []Range) []Range {
	var single []Range
	for _, r := range ranges {
		if bytes.Equal(r.Hi, append(bytes.Clone(r.Lo), 0)) {
			single = append(single, r)
		}
	}
	return single
}
