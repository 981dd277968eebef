package wire

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestReader reads single values of PER, and what is behind them.
func TestReader(t *testing.T) {
	long := "c1" + strings.Repeat("00", fragment) + "03" + "010203"
	tests := []struct {
		name string
		typ  string
		hex  string
		want string // pos and end in bits, error
	}{
		{"one value takes no bit", "INTEGER (4..4)", "80", "0 <nil>"},
		{"3 bits", "INTEGER (0..4)", "a0", "3 <nil>"},
		{"255 values take 8 bits where they are", "INTEGER (1..255)", "ff", "8 <nil>"},
		{"256 values take a byte", "INTEGER (0..255)", "ff", "8 <nil>"},
		{"two bytes", "INTEGER (1..65535)", "0001", "16 <nil>"},
		{"length of 2 bits, then bytes", "INTEGER (0..4294967295)", "80ffffff", "32 <nil>"},
		{"length of 2 bits, one byte", "INTEGER (0..4294967295)", "00ff", "16 <nil>"},
		{"three bytes at most", "INTEGER (0..16777215)", "80ffffff", "32 <nil>"},
		{"no upper bound", "INTEGER (1..MAX)", "0200ff", "24 <nil>"},
		{"extended", "INTEGER (0..16383, ...)", "80024000", "32 <nil>"},
		{"not extended", "INTEGER (0..16383, ...)", "003fff", "24 <nil>"},
		{"ENUMERATED", "ENUMERATED (4, ...)", "60", "3 <nil>"},
		{"ENUMERATED of a later version", "ENUMERATED (4, ...)", "81", "8 <nil>"},
		{"CHOICE of NULLs", "NULLS (12, ...)", "58", "5 <nil>"},
		{"CHOICE of NULLs, out of bounds", "NULLS (12, ...)", "68", "8 out of bounds"},
		{"CHOICE of NULLs, a later version", "NULLS (12, ...)", "890155", "24 <nil>"},
		{"CHOICE of NULLs, a much later version", "NULLS (12, ...)", "c001ff0155", "40 <nil>"},
		{"two bytes, not aligned", "OCTET STRING (SIZE (2))", "0102", "16 <nil>"},
		{"variable", "OCTET STRING (SIZE (1..20))", "0801020000", "24 <nil>"},
		{"open ended", "OCTET STRING", "020102ff", "24 <nil>"},
		{"length of two bytes", "OCTET STRING", "8003010203", "40 <nil>"},
		{"fragments", "OCTET STRING", long, fmt.Sprint(8*(1+fragment+4), " <nil>")},
		{"fragments end early", "OCTET STRING", long[:len(long)-2], fmt.Sprint(8*(1+fragment+3), " ends early")},
		{"fragment of no size", "OCTET STRING", "c0", "8 out of bounds"},
		{"fragment of five", "OCTET STRING", "c5", "8 out of bounds"},
		{"BIT STRING", "BIT STRING", "0aff80", "18 <nil>"},
		{"BIT STRING (SIZE (0..2048))", "BIT STRING (SIZE (0..2048))", "0003e0", "19 <nil>"},
		{"BMPString", "BMPString (SIZE (1..128))", "0200410042", "40 <nil>"},
		{"4 bits a character", "IA5String (SIZE (1..128)) (FROM ('0123456789#*,'))", "04345670", "20 <nil>"},
		{"8 bits a character", "IA5String (SIZE (1..32))", "084142", "24 <nil>"},
		{"NumericString", "NumericString (SIZE (1..16))", "1012", "16 <nil>"},
		{"list", "SEQUENCE OF BOOLEAN", "03e0", "11 <nil>"},
		{"list with bounds", "SET (SIZE (1..256)) OF BOOLEAN", "0080", "9 <nil>"},
		{"list within a list", "SEQUENCE OF SEQUENCE OF BOOLEAN", "01018000", "17 <nil>"},
		{"OBJECT IDENTIFIER", "OBJECT IDENTIFIER", "0600088175000d", "56 <nil>"},
		{"ends early", "OCTET STRING (SIZE (16))", "010203", "24 ends early"},
		{"nothing", "BOOLEAN", "", "0 ends early"},
		{"open type", "OPEN", "02010203", "24 <nil>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var m Message
			b := make([]byte, len(tt.hex)/2)
			fmt.Sscanf(tt.hex, "%x", &b)
			w := newWalker(&m, b, 0)
			typ := (&types{byName: map[string]*Type{}}).find(tt.typ)
			w.walk(typ, 0)
			if got := fmt.Sprint(w.pos, " ", w.err); got != tt.want {
				t.Errorf("read to %s, want %s", got, tt.want)
			}
		})
	}
}

// TestDepth checks that types within types end.
func TestDepth(t *testing.T) {
	loop := &Type{Form: Choice, Root: 1}
	loop.Rows = []Row{{Name: "again", Type: loop}} // one alternative takes no bit
	var m Message
	w := newWalker(&m, make([]byte, 100), 0)
	w.walk(loop, 0)
	if !errors.Is(w.err, errDepth) {
		t.Errorf("%v, want %v", w.err, errDepth)
	}
}

// TestWork checks that what takes no bits ends.
func TestWork(t *testing.T) {
	empty := &Type{Form: List, Hi: -1, Of: &Type{Form: Null}}
	b := append([]byte{0xbf, 0xff}, make([]byte, 10)...) // 16383 NULLs
	var m Message
	w := newWalker(&m, b, 0)
	w.walk(empty, 0)
	if !errors.Is(w.err, errWork) || w.pos != w.end {
		t.Errorf("%v at %d, want %v at %d", w.err, w.pos, errWork, w.end)
	}
}

// TestTables checks what the reader takes for granted of the tables, and that kinds are numbered as their CHOICEs.
func TestTables(t *testing.T) {
	rows := 0
	for name, typ := range schema().byName {
		rows += len(typ.Rows)
		if typ.optional > 32 {
			t.Errorf("%s: %d OPTIONAL, more than are read at once", name, typ.optional)
		}
		if typ.Form == String && typ.Hi >= 0 && typ.Lo != typ.Hi && int(typ.Hi)*typ.Unit < 16 {
			t.Errorf("%s would not be aligned (X.691, 30.5.7)", name)
		}
		if (typ.Form == Sequence || typ.Form == Choice) && len(typ.Rows) == 0 && !typ.Extensible {
			t.Errorf("%s has no rows", name)
		}
		for i, r := range typ.Rows {
			if r.Type == nil && i < typ.Root {
				t.Errorf("%s.%s is in the root and has no type", name, r.Name)
			}
		}
	}
	t.Logf("%d rows", rows)
	kinds := []struct {
		kind      Kind
		typ, name string
		first     Kind
	}{
		{AdmissionConfirmSequence, "RasMessage", "admissionConfirmSequence", firstRAS},
		{LocationConfirm, "RasMessage", "locationConfirm", firstRAS},
		{RequestInProgress, "RasMessage", "requestInProgress", firstRAS},
		{Facility, "H323-UU-PDU.h323-message-body", "facility", firstBody},
		{Progress, "H323-UU-PDU.h323-message-body", "progress", firstBody},
		{Notify, "H323-UU-PDU.h323-message-body", "notify", firstBody},
		{OpenLogicalChannel, "RequestMessage", "openLogicalChannel", firstRequest},
		{CloseLogicalChannel, "RequestMessage", "closeLogicalChannel", firstRequest},
		{RequestChannelClose, "RequestMessage", "requestChannelClose", firstRequest},
		{OpenLogicalChannelAck, "ResponseMessage", "openLogicalChannelAck", firstResponse},
		{OpenLogicalChannelReject, "ResponseMessage", "openLogicalChannelReject", firstResponse},
		{CloseLogicalChannelAck, "ResponseMessage", "closeLogicalChannelAck", firstResponse},
		{RequestChannelCloseAck, "ResponseMessage", "requestChannelCloseAck", firstResponse},
		{RequestChannelCloseReject, "ResponseMessage", "requestChannelCloseReject", firstResponse},
		{CommunicationModeResponse, "ResponseMessage", "communicationModeResponse", firstResponse},
		{EndSessionCommand, "CommandMessage", "endSessionCommand", firstCommand},
		{CommunicationModeCommand, "CommandMessage", "communicationModeCommand", firstCommand},
		{OpenLogicalChannelConfirm, "IndicationMessage", "openLogicalChannelConfirm", firstIndication},
		{RequestChannelCloseRelease, "IndicationMessage", "requestChannelCloseRelease", firstIndication},
		{MCLocationIndication, "IndicationMessage", "mcLocationIndication", firstIndication},
	}
	for _, k := range kinds {
		if got := Lookup(k.typ).Rows[k.kind-k.first].Name; got != k.name {
			t.Errorf("kind %d is %s in %s, want %s", k.kind, got, k.typ, k.name)
		}
	}
}
