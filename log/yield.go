package log

// A yieldPoint names a place between two steps that others can get between.
type yieldPoint uint8

const (
	yieldReserve  yieldPoint = iota // before the CAS that takes space
	yieldSeal                       // before the CAS that seals
	yieldAdvance                    // before the CASes that add a buffer and make it current
	yieldComplete                   // before a writer leaves its buffer
	yieldWrite                      // before a run of buffers is written
	yieldSync                       // before files are synced
	yieldRead                       // between finding where an update is and reading it
)

// yieldHook, if not nil, is called at every yield point; it may delay. Tests
// set it while no log is open.
var yieldHook func(yieldPoint)

func yield(p yieldPoint) {
	if yieldHook != nil {
		yieldHook(p)
	}
}
