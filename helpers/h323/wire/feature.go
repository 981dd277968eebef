package wire

import "bytes"

// feature is what generic data is about: of H.460.1 in H.225.0, and in H.245.
type feature struct {
	number, parameter uint32 // of H.460.number; 0: another one, or not known yet
	identifies        Field  // what the next standard identifier is: asFeature, asParameter or 0
}

// oidH460 begins the OBJECT IDENTIFIER of a feature of H.460: {itu-t(0) recommendation(0) h(8) 460}, then its number.
var oidH460 = []byte{0, 8, 0x83, 0x4c}

// identify takes a standard identifier.
func (w *walker) identify(v uint32) {
	switch w.feature.identifies {
	case asFeature:
		w.feature.number = v
	case asParameter:
		w.feature.parameter = v
	}
}

// name takes an OBJECT IDENTIFIER.
func (w *walker) name(oid []byte) {
	if rest, ok := bytes.CutPrefix(oid, oidH460); ok && len(rest) > 0 && rest[0] < 0x80 {
		w.feature.number = uint32(rest[0])
	}
}

// parameter reads the contents of an OCTET STRING if they may hold an address: the traversal of H.460.18, table 1, in
// RAS, and of H.460.19, table 2, in H.245.
func (w *walker) parameter() {
	switch control := w.control >= 0; {
	case w.feature.parameter != 1:
	case w.feature.number == 18 && !control:
		w.walk(w.types.incomingCall, 0)
	case w.feature.number == 19 && control:
		w.walk(w.types.traversal, 0)
	}
}
