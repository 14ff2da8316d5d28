package pagecache

import "github.com/pulkdb/db/internal/testhooks"

// yieldNames are what tests of other packages call the yield points.
var yieldNames = map[yieldPoint]string{
	yieldAppendPublish:      "AppendPublish",
	yieldConsolidatePublish: "ConsolidatePublish",
	yieldUpdatePart:         "UpdatePart",
	yieldUpdateFresh:        "UpdateFresh",
	yieldUpdatePublish:      "UpdatePublish",
	yieldUpdateReady:        "UpdateReady",
	yieldEvictPublish:       "EvictPublish",
	yieldLoadRead:           "LoadRead",
	yieldLoadPublish:        "LoadPublish",
	yieldCheckpointSlot:     "CheckpointSlot",
	yieldSpin:               testhooks.Spin,
}

func init() {
	testhooks.Register("pagecache", func(f func(point string)) {
		yieldHook = nil
		if f != nil {
			yieldHook = func(p yieldPoint) { f(yieldNames[p]) }
		}
	})
}
