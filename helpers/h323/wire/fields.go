package wire

// Field is what a row of the tables holds. Those with a name of their own are the places of transport addresses, by
// the names of the ASN.1; if places are within each other, the outermost one counts.
type Field uint8

const (
	// H.225.0, call signalling.
	H245Address Field = iota + 1
	SourceCallSignalAddress
	DestCallSignalAddress
	AlternativeAddress      // of Facility: where to call instead
	AlternativeAliasAddress // a transportID in it
	TransportID             // of an alias, wherever it is
	// RAS.
	CallSignalAddress
	RASAddress
	ReplyAddress
	SrcCallSignalAddress
	AlternateGatekeeper // its rasAddress, also in altGKInfo
	AssignedGatekeeper  // its rasAddress
	AlternateCallSignalAddress
	AlternateRASAddress // of an Endpoint, as the one above
	AnnexE              // of alternateTransportAddresses
	SCTP
	RTPAddress // of an IRR, as the next four
	RTCPAddress
	DataAddress
	H245Channel
	CallSignalling
	RTCPAddresses         // of bandwidthDetails
	Transport             // in GenericData
	CallSignallingAddress // of an IncomingCallIndication (H.460.18)
	// H.245.
	MediaChannel
	MediaControlChannel
	LocalAreaAddress        // of separateStack
	SignalAddress           // of an MCLocationIndication
	MultiplexedMediaChannel // of TraversalParameters (H.460.19), as the next two
	MultiplexedMediaControlChannel
	KeepAliveChannel
	lastPlace = KeepAliveChannel
)

// What rows hold beside addresses.
const (
	asIP Field = lastPlace + 1 + iota
	asPort
	asRAS
	asBody
	asSequence
	asReference
	asTimeToLive
	asReason
	asCallModel
	asDelay
	asKeepAlive
	asTunnelling
	asAnswerCall
	asUnsolicited
	asCallID
	asConference
	asEndpointID
	asRequest
	asResponse
	asCommand
	asIndication
	asChannel
	asReverseChannel
	asSession
	asDataType
	asMediaType
	asApplication
	asReliable
	asStandard    // a standard identifier: of what is around
	asFeatureName // an OBJECT IDENTIFIER
	asContents    // what feature and parameter say is in it
	// What is around.
	asFastStart
	asH245Control
	asParallelH245Control
	asReverse
	asQuoted
	asFeature   // identifier of generic data
	asParameter // and of a parameter of it
)

// String is the name in the ASN.1.
func (f Field) String() string {
	if int(f) < len(fieldNames) {
		return fieldNames[f]
	}
	return ""
}

var fieldNames = [...]string{
	H245Address:                "h245Address",
	SourceCallSignalAddress:    "sourceCallSignalAddress",
	DestCallSignalAddress:      "destCallSignalAddress",
	AlternativeAddress:         "alternativeAddress",
	AlternativeAliasAddress:    "alternativeAliasAddress",
	TransportID:                "transportID",
	CallSignalAddress:          "callSignalAddress",
	RASAddress:                 "rasAddress",
	ReplyAddress:               "replyAddress",
	SrcCallSignalAddress:       "srcCallSignalAddress",
	AlternateGatekeeper:        "alternateGatekeeper",
	AssignedGatekeeper:         "assignedGatekeeper",
	AlternateCallSignalAddress: "alternate callSignalAddress",
	AlternateRASAddress:        "alternate rasAddress",
	AnnexE:                     "annexE",
	SCTP:                       "sctp",
	RTPAddress:                 "rtpAddress",
	RTCPAddress:                "rtcpAddress",
	DataAddress:                "data",
	H245Channel:                "h245",
	CallSignalling:             "callSignalling",
	RTCPAddresses:              "rtcpAddresses",
	Transport:                  "transport",
	MediaChannel:               "mediaChannel",
	MediaControlChannel:        "mediaControlChannel",
	LocalAreaAddress:           "localAreaAddress",
	SignalAddress:              "signalAddress",

	CallSignallingAddress:          "callSignallingAddress",
	MultiplexedMediaChannel:        "multiplexedMediaChannel",
	MultiplexedMediaControlChannel: "multiplexedMediaControlChannel",
	KeepAliveChannel:               "keepAliveChannel",
}
