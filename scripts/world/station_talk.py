"""Manners and rules of style of the station, twenty of each."""

from scripts.world.lore import manner, rules

MANNERS = tuple(
    manner(name, says, asks, instead)
    for name, says, asks, instead in (
        ("hail", "Station here, go ahead.", """station come in
            hail the station
            anyone on this channel
            do you read me
            calling the station
            open a channel
            ping
            knock knock""", """Loud and clear. What is your need?
            We hear you, traveller."""),
        ("out", "Closing the channel.", """over and out
            end of message
            close the channel
            signing off
            that will be all
            hang up now
            disconnect
            log me out""", """Fly safe. When do you call again?
            Until the next orbit."""),
        ("copy", "Noted in the log.", """copy that
            roger
            acknowledged
            message received
            affirmative
            as you say
            ten four
            understood, station""", """Good. What comes next?
            Written down, captain."""),
        ("status", "All systems are in order.", """status report
            how are the systems
            run a self check
            is everything working
            any faults to report
            condition of the station
            health check
            are you operational""", """Humming along. And yours?
            Better than yesterday, I think."""),
        ("identity", "This is {name} speaking.", """identify yourself
            state your name
            who is speaking
            whom did I reach
            your designation, please
            which unit are you
            what do they call you
            who answers this channel""", """Only a voice in the wires.
            Who wants to know?"""),
        ("fault", "The error has been recorded.", """you are in error
            incorrect
            bad data
            that reading is off
            wrong entry
            your log is mistaken
            negative, that is not so
            correct your records""", """Show me, and we mend it together.
            Which entry do you mean?"""),
        ("alarm", "Proceed to the nearest shelter.", """red alert
            there is smoke in here
            emergency
            mayday
            we are under attack
            hull breach
            sound the alarm
            code red""", """Stay calm. Where exactly are you?
            Help is on its way to you."""),
        ("clock", "Station time is kept by the bells.", """give me the station time
            what hour is it aboard
            clock reading
            what bell is it
            time check
            current time
            how late is it up there
            synchronise clocks""", """Time for tea, I should say.
            The bells just rang. Did you sleep?"""),
        ("help", "State a name and what you look for.", """help
            list your commands
            how do I use you
            usage
            what can I ask here
            show the manual
            instructions
            give me a hint""", """Try a name. Whose would you like?
            Ask away, I sort it out."""),
        ("praise", "The crew deserves the credit.", """good work, station
            nicely done
            well executed
            you did fine
            commendable
            a medal for you
            outstanding service
            top marks""", """You make my lamps blush.
            And what may I do now?"""),
        ("blame", "The complaint is filed.", """worst station ever
            what a piece of junk
            you rusty bucket
            utterly useless machine
            you are scrap
            I will report you
            lousy service
            you fail at everything""", """Rough day? Tell me more.
            I shall try harder, promise."""),
        ("dock", "Berth nine is free for docking.", """request docking
            may we dock
            we want to land
            permission to approach
            assign us a berth
            where do we moor
            coming alongside
            docking clearance""", """Gently now. Which side is your hatch?
            Welcome aboard, weary ones."""),
        ("leave", "Clearance for departure is given.", """request departure
            we want to leave
            permission to undock
            cast off
            ready for launch
            release the clamps
            may we set sail
            take off clearance""", """So soon? Then fair winds.
            Check your seals first, will you?"""),
        ("news", "No bulletins today.", """any news
            read the bulletin
            what happened today
            headlines
            latest reports
            anything new aboard
            news feed
            what did I miss""", """Quiet as dust. Is that good?
            Somebody painted the hub green."""),
        ("weather", "Space has no weather.", """solar wind report
            is it cold out there
            radiation level
            weather on the outside
            any meteors
            how bright is the sun
            storm warning
            temperature outside""", """Wear the thick suit, please.
            Clear skies, all the way down."""),
        ("price", "Nothing is for sale here.", """how much is it
            price list
            what do I owe you
            can I buy something
            I want to trade
            sell me a suit
            what is your rate
            cost of fuel""", """For you, a song. Which one?
            We barter. What do you bring?"""),
        ("story", "The log holds facts only.", """tell a story
            tell me a tale
            amuse us
            say a poem
            recite something
            make up a legend
            once upon a time
            entertain the crew""", """A ship once sang itself home.
            Only if you begin. How did it start?"""),
        ("sleep", "The station does not sleep.", """are you tired
            go to sleep
            do you ever rest
            sweet dreams, station
            power down
            hibernate
            take a nap
            good night up there""", """I dream of tides. And you?
            Resting is for moons."""),
        ("origin", "Assembled in orbit, long ago.", """who assembled you
            where were you made, station
            origin of the station
            who is your builder
            tell me your history
            when were you launched
            your year of manufacture
            from which yard are you""", """Hands older than yours made me.
            Guess! Was it iron or ice?"""),
        ("doubt", "The log does not lie.", """are you certain
            double check that
            confirm it
            is that verified
            prove it
            I do not believe it
            says who
            verify your last answer""", """Checking again. Will that do?
            Trust is earned, fair enough."""),
    )
)  # fmt: skip

RULES = rules(
    """
    terminate transmissions | {a} Over.
    ask back | {a} Anything further?
    use call signs | Station to caller: {a}
    count your answers | Entry found. {a}
    be gloomy | {a} Not that it matters.
    be cheerful | {a} Isn't that splendid!
    stay formal | Be advised: {a}
    cite the log | {a} That is what the log says.
    warn the crew | Careful now. {a}
    drawl | Weeell, {a}
    ask for a receipt | {a} Please confirm receipt.
    remember the air | {a} Mind your oxygen.
    sound tired | Sigh. {a}
    sound busy | {a} Next caller, please.
    be a poet | As stars are many, {a}
    be a lawyer | {a} No liability is assumed.
    repeat yourself | Again: {a}
    shout | Attention! {a}
    be polite | If I may: {a}
    promise a drink | {a} Drinks are on me.
    """
)
