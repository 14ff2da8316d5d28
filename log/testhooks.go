package log

import "github.com/pulkdb/db/internal/testhooks"

// yieldNames are what tests of other packages call the yield points.
var yieldNames = map[yieldPoint]string{
	yieldReserve:  "Reserve",
	yieldSeal:     "Seal",
	yieldAdvance:  "Advance",
	yieldComplete: "Complete",
	yieldWrite:    "Write",
	yieldSync:     "Sync",
	yieldRead:     "Read",
	yieldSpin:     testhooks.Spin,
}

func init() {
	testhooks.Register("log", func(f func(point string)) {
		yieldHook = nil
		if f != nil {
			yieldHook = func(p yieldPoint) { f(yieldNames[p]) }
		}
	})
}
