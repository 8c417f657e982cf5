def RangePush(message, id_color=-1):
    pass


def RangePop():
    pass
