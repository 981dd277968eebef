package wire

// Kind is a message, numbered as the alternatives of its CHOICE stand in the ASN.1.
type Kind uint8

// RAS (H.225.0, RasMessage).
const (
	GatekeeperRequest Kind = iota + 1
	GatekeeperConfirm
	GatekeeperReject
	RegistrationRequest
	RegistrationConfirm
	RegistrationReject
	UnregistrationRequest
	UnregistrationConfirm
	UnregistrationReject
	AdmissionRequest
	AdmissionConfirm
	AdmissionReject
	BandwidthRequest
	BandwidthConfirm
	BandwidthReject
	DisengageRequest
	DisengageConfirm
	DisengageReject
	LocationRequest
	LocationConfirm
	LocationReject
	InfoRequest
	InfoRequestResponse
	NonStandardMessage
	UnknownMessageResponse
	RequestInProgress
	ResourcesAvailableIndicate
	ResourcesAvailableConfirm
	InfoRequestAck
	InfoRequestNak
	ServiceControlIndication
	ServiceControlResponse
	AdmissionConfirmSequence
	OtherRAS // newer than the tables
)

// Call signalling (H.225.0, h323-message-body).
const (
	Setup Kind = OtherRAS + 1 + iota
	CallProceeding
	Connect
	Alerting
	Information
	ReleaseComplete
	Facility
	Progress
	Empty
	Status
	StatusInquiry
	SetupAcknowledge
	Notify
	OtherBody // newer than the tables
)

// H.245 messages that open, change and close channels. The others have numbers between them, and Other for what is
// newer than the tables.
const (
	firstRequest    = OtherBody + 1
	firstResponse   = firstRequest + requestKinds + 1
	firstCommand    = firstResponse + responseKinds + 1
	firstIndication = firstCommand + commandKinds + 1

	OpenLogicalChannel         = firstRequest + 3
	CloseLogicalChannel        = firstRequest + 4
	RequestChannelClose        = firstRequest + 5
	OpenLogicalChannelAck      = firstResponse + 5
	OpenLogicalChannelReject   = firstResponse + 6
	CloseLogicalChannelAck     = firstResponse + 7
	RequestChannelCloseAck     = firstResponse + 8
	RequestChannelCloseReject  = firstResponse + 9
	CommunicationModeResponse  = firstResponse + 19
	EndSessionCommand          = firstCommand + 5
	CommunicationModeCommand   = firstCommand + 7
	OpenLogicalChannelConfirm  = firstIndication + 4
	RequestChannelCloseRelease = firstIndication + 5
	MCLocationIndication       = firstIndication + 15
)

// Where the kinds of each CHOICE begin, and how many alternatives it has in the tables' version.
const (
	firstRAS        = GatekeeperRequest
	firstBody       = Setup
	rasKinds        = 33
	bodyKinds       = 13
	requestKinds    = 16
	responseKinds   = 25
	commandKinds    = 13
	indicationKinds = 24
)
