package pagecache

// A yieldPoint names a place where a test can hold an operation up: between
// reading a head and publishing, mostly.
type yieldPoint uint8

const (
	yieldAppendPublish yieldPoint = iota
	yieldConsolidatePublish
	yieldUpdatePart
	yieldUpdateFresh
	yieldUpdatePublish
	yieldUpdateReady
	yieldEvictPublish
	yieldLoadRead
	yieldLoadPublish
	yieldCheckpointSlot
)

// yieldHook is set by tests before a cache is opened and left alone afterwards.
var yieldHook func(yieldPoint)

func yield(p yieldPoint) {
	if yieldHook != nil {
		yieldHook(p)
	}
}
